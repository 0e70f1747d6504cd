//! Lint rules for a dashboard that operators read at night. Each is a function of the file alone.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Panel, list, word};

/// Panel types that Grafana 10 to 13 have and do not deprecate, unlike `graph` and `table-old`.
const KINDS: [&str; 6] = ["heatmap", "row", "stat", "state-timeline", "table", "timeseries"];

/// The columns of the grid.
const COLUMNS: u64 = 24;

/// The variable from which every panel and query takes its data source.
const SOURCE: &str = "${datasource}";

/// A description shorter than this carries no information.
const DESCRIPTION_MIN: usize = 60;

pub(super) fn problems(dashboard: &Value, panels: &[Panel]) -> Vec<String> {
    let mut problems = general(dashboard);
    let mut report = |panel: &Panel, what: String| problems.push(format!("{}: {what}", panel.title()));
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        if !panel.json["id"].as_u64().is_some_and(|id| ids.insert(id)) {
            report(panel, format!("its id {} is another's, or no number", panel.json["id"]));
        }
        if panel.title().is_empty() || !titles.insert((panel.row, panel.title())) {
            report(panel, "its title is another's in this row, or empty".to_owned());
        }
        if !KINDS.contains(&panel.kind()) {
            report(panel, format!("its kind is {:?}", panel.kind()));
        }
        if panel.kind() != "row" {
            for what in of_panel(panel) {
                report(panel, what);
            }
        }
    }
    for (index, panel) in panels.iter().enumerate() {
        let Some(area) = area(panel) else {
            report(panel, format!("it has no position in the grid: {}", panel.json["gridPos"]));
            continue;
        };
        for other in &panels[..index] {
            if self::area(other).is_some_and(|others| overlap(area, others)) {
                report(panel, format!("it lies on {}", other.title()));
            }
        }
    }
    problems
}

fn general(dashboard: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let mut ask = |holds: bool, what: &str| {
        if !holds {
            problems.push(what.to_owned());
        }
    };
    ask(dashboard["id"].is_null(), "an id is of one Grafana");
    ask(!word(&dashboard["uid"]).is_empty(), "it has no uid to be linked by");
    ask(dashboard["__inputs"].is_null(), "it requires inputs, which provisioning does not provide");
    ask(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 38), "Grafana 10 has schema 38");
    let variables = list(&dashboard["templating"]["list"]);
    let has_source = |variable: &Value| {
        variable["type"] == "datasource"
            && variable["query"] == "prometheus"
            && variable["name"] == "datasource"
    };
    ask(variables.first().is_some_and(has_source), "the first variable is not the data source");
    for variable in variables {
        let name = word(&variable["name"]);
        ask(word(&variable["description"]).ends_with('.'), &format!("variable {name} is not described"));
        let is_of_source = variable["type"] == "datasource" || variable["datasource"]["uid"] == SOURCE;
        ask(is_of_source, &format!("variable {name} is not of {SOURCE}"));
    }
    for annotation in list(&dashboard["annotations"]["list"]) {
        let name = word(&annotation["name"]);
        ask(annotation["datasource"]["uid"] == SOURCE, &format!("annotation {name} is not of {SOURCE}"));
    }
    problems
}

fn of_panel(panel: &Panel) -> Vec<String> {
    let mut problems = Vec::new();
    let mut ask = |holds: bool, what: String| {
        if !holds {
            problems.push(what);
        }
    };
    let description = word(&panel.json["description"]);
    ask(
        description.len() >= DESCRIPTION_MIN && description.ends_with('.'),
        "its description is no sentence".to_owned(),
    );
    let defaults = &panel.json["fieldConfig"]["defaults"];
    let unit =
        if panel.kind() == "heatmap" { &panel.json["options"]["yAxis"]["unit"] } else { &defaults["unit"] };
    ask(!word(unit).is_empty(), "it has no unit".to_owned());
    ask(panel.json["datasource"]["uid"] == SOURCE, format!("it is not of {SOURCE}"));
    let targets = list(&panel.json["targets"]);
    ask(!targets.is_empty(), "it has no query".to_owned());
    let mut refs = BTreeSet::new();
    for target in targets {
        let name = word(&target["refId"]);
        ask(refs.insert(name), format!("two queries are called {name:?}"));
        ask(target["datasource"]["uid"] == SOURCE, format!("query {name} is not of {SOURCE}"));
        ask(!word(&target["expr"]).is_empty(), format!("query {name} is empty"));
        ask(
            target["instant"] != target["range"],
            format!("query {name} is both of now and over time, or neither"),
        );
        let needs_legend = panel.kind() != "table";
        ask(
            !needs_legend || !word(&target["legendFormat"]).is_empty(),
            format!("query {name} has no legend"),
        );
        let format = match panel.kind() {
            "table" => "table",
            "heatmap" => "heatmap",
            _ => "time_series",
        };
        ask(target["format"] == format, format!("query {name} is not formatted as {format}"));
    }
    if panel.kind() == "table" {
        for what in of_columns(panel, &refs) {
            ask(false, what);
        }
    }
    problems
}

/// Column names are strings in four places, and Grafana reports no error for a wrong one.
fn of_columns(panel: &Panel, refs: &BTreeSet<&str>) -> Vec<String> {
    let organize = list(&panel.json["transformations"]).iter().find(|step| step["id"] == "organize");
    let options = organize.map_or(&Value::Null, |step| &step["options"]);
    let keys = |of: &str| {
        options[of].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect::<BTreeSet<_>>()
    };
    let (excluded, placed, renamed) = (keys("excludeByName"), keys("indexByName"), keys("renameByName"));
    let mut problems = Vec::new();
    let value_of = |column: &str| column.strip_prefix("Value #").map(str::to_owned);
    for column in excluded.iter().chain(&placed).chain(&renamed) {
        if value_of(column).is_some_and(|name| !refs.contains(name.as_str())) {
            problems.push(format!("column {column} is of no query"));
        }
    }
    for name in refs {
        let column = format!("Value #{name}");
        let is_shown = placed.contains(column.as_str()) && renamed.contains(column.as_str());
        if !is_shown && !excluded.contains(column.as_str()) {
            problems.push(format!("column {column} is shown without a position and a name"));
        }
    }
    let shown_as = |column: &&str| {
        let name = options["renameByName"][*column].as_str();
        name.map_or_else(|| (*column).to_owned(), str::to_owned)
    };
    let names: BTreeSet<_> = placed.iter().map(shown_as).collect();
    for rule in list(&panel.json["fieldConfig"]["overrides"]) {
        let name = word(&rule["matcher"]["options"]);
        if !names.contains(name) {
            problems.push(format!("there is no column {name:?} to override"));
        }
    }
    for sorted in list(&panel.json["options"]["sortBy"]) {
        let name = word(&sorted["displayName"]);
        if !names.contains(name) {
            problems.push(format!("there is no column {name:?} to sort by"));
        }
    }
    problems
}

/// Left, top, right and bottom.
fn area(panel: &Panel) -> Option<[u64; 4]> {
    let grid = &panel.json["gridPos"];
    let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| grid[name].as_u64());
    let (x, y, w, h) = (x?, y?, w?, h?);
    (w > 0 && h > 0 && x + w <= COLUMNS).then_some([x, y, x + w, y + h])
}

fn overlap(one: [u64; 4], other: [u64; 4]) -> bool {
    one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Dashboard;

    fn dashboard() -> serde_json::Value {
        let source = json!({"type": "prometheus", "uid": "${datasource}"});
        let panel = |id: u64, title: &str, x: u64| {
            json!({"id": id, "type": "stat", "title": title, "datasource": source, "gridPos": {"x": x, "y": 1, "w": 12, "h": 4},
                "description": "What it shows, explained in enough words that a tired operator understands it.",
                "fieldConfig": {"defaults": {"unit": "s"}, "overrides": []},
                "targets": [{"refId": "A", "expr": "up", "legendFormat": "x", "instant": true, "range": false, "format": "time_series",
                    "datasource": source}]})
        };
        json!({"id": null, "uid": "x", "schemaVersion": 38, "panels": [
            {"id": 1, "type": "row", "title": "Row", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}},
            panel(2, "One", 0), panel(3, "Two", 12)],
            "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "description": "It."}]}})
    }

    #[test]
    fn each_rule_can_be_broken() {
        assert_eq!(Dashboard(dashboard()).problems(), Vec::<String>::new());
        let cases = [
            ("/panels/2/id", json!(2), "Two: its id 2 is another's, or no number"),
            ("/panels/2/title", json!("One"), "One: its title is another's in this row, or empty"),
            ("/panels/2/type", json!("graph"), "Two: its kind is \"graph\""),
            ("/panels/2/gridPos/x", json!(11), "Two: it lies on One"),
            (
                "/panels/2/gridPos/w",
                json!(13),
                "Two: it has no position in the grid: {\"h\":4,\"w\":13,\"x\":12,\"y\":1}",
            ),
            ("/panels/2/description", json!("p99"), "Two: its description is no sentence"),
            ("/panels/2/fieldConfig/defaults/unit", json!(""), "Two: it has no unit"),
            ("/panels/2/datasource/uid", json!("prometheus"), "Two: it is not of ${datasource}"),
            ("/panels/2/targets", json!([]), "Two: it has no query"),
            ("/panels/2/targets/0/expr", json!(""), "Two: query A is empty"),
            ("/panels/2/targets/0/legendFormat", json!(""), "Two: query A has no legend"),
            (
                "/panels/2/targets/0/range",
                json!(true),
                "Two: query A is both of now and over time, or neither",
            ),
            ("/panels/2/targets/0/datasource/uid", json!(""), "Two: query A is not of ${datasource}"),
            ("/panels/2/targets/0/format", json!("table"), "Two: query A is not formatted as time_series"),
            ("/templating/list/0/query", json!("loki"), "the first variable is not the data source"),
            ("/schemaVersion", json!(36), "Grafana 10 has schema 38"),
            ("/id", json!(7), "an id is of one Grafana"),
        ];
        for (place, value, expected) in cases {
            let mut broken = dashboard();
            *broken.pointer_mut(place).expect(place) = value;
            assert_eq!(Dashboard(broken).problems(), [expected], "{place}");
        }
    }

    #[test]
    fn columns_of_a_table_have_to_be_there() {
        let mut table = dashboard();
        let panel = table.pointer_mut("/panels/2").unwrap();
        panel["type"] = json!("table");
        panel["targets"][0]["format"] = json!("table");
        panel["transformations"] = json!([{"id": "organize", "options": {"excludeByName": {"Value #B": true},
            "indexByName": {"member": 0, "Value #A": 1}, "renameByName": {}}}]);
        panel["fieldConfig"]["overrides"] =
            json!([{"matcher": {"id": "byName", "options": "membre"}, "properties": []}]);
        let expected = [
            "Two: column Value #B is of no query",
            "Two: column Value #A is shown without a position and a name",
            "Two: there is no column \"membre\" to override",
        ];
        assert_eq!(Dashboard(table).problems(), expected);
    }
}
