//! A Grafana dashboard as its file contains it: the queries of its panels, and mistakes that Grafana accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

mod lint;

/// The file of a dashboard.
#[derive(Clone, Debug)]
pub struct Dashboard(Value);

/// One panel, rows included.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    pub json: &'a Value,
    /// The title of the row above it; empty for none.
    pub row: &'a str,
    /// The variable that repeats its row, once for each value.
    pub repeated_by: Option<&'a str>,
}

/// The kind of a query to Prometheus.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QueryKind {
    Instant,
    Range,
}

/// One expression of a panel.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub expression: &'a str,
    pub legend: &'a str,
    pub kind: QueryKind,
}

impl Dashboard {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self(serde_json::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?))
    }

    /// Returns all panels in order, including the panels of collapsed rows.
    pub fn panels(&self) -> Vec<Panel<'_>> {
        let (mut panels, mut row, mut repeated_by) = (Vec::new(), "", None);
        for json in list(&self.0["panels"]) {
            if json["type"] == "row" {
                (row, repeated_by) = (word(&json["title"]), json["repeat"].as_str());
            }
            panels.push(Panel { json, row, repeated_by });
            panels.extend(list(&json["panels"]).iter().map(|json| Panel { json, row, repeated_by }));
        }
        panels
    }

    /// Returns the query variables: name and `label_values(…)`.
    pub fn variables(&self) -> Vec<(&str, &str)> {
        let all = list(&self.0["templating"]["list"]).iter().filter(|variable| variable["type"] == "query");
        all.map(|variable| (word(&variable["name"]), word(&variable["query"]["query"]))).collect()
    }

    /// Returns the expressions of the annotations.
    pub fn annotations(&self) -> Vec<&str> {
        let all = list(&self.0["annotations"]["list"]).iter();
        all.map(|annotation| word(&annotation["expr"])).filter(|expression| !expression.is_empty()).collect()
    }

    /// Returns the lint errors, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        lint::problems(&self.0, &self.panels())
    }
}

impl<'a> Panel<'a> {
    pub fn title(&self) -> &'a str {
        word(&self.json["title"])
    }

    pub fn kind(&self) -> &'a str {
        word(&self.json["type"])
    }

    pub fn queries(&self) -> impl Iterator<Item = Query<'a>> {
        list(&self.json["targets"]).iter().map(|target| Query {
            expression: word(&target["expr"]),
            legend: word(&target["legendFormat"]),
            kind: if target["instant"] == true { QueryKind::Instant } else { QueryKind::Range },
        })
    }

    /// Returns the texts that value mappings show, by value.
    pub fn texts(&self) -> BTreeMap<&'a str, &'a str> {
        let mappings = list(&self.json["fieldConfig"]["defaults"]["mappings"]).iter();
        let options = mappings.filter_map(|mapping| mapping["options"].as_object()).flatten();
        options.map(|(number, shown)| (number.as_str(), word(&shown["text"]))).collect()
    }
}

impl<'a> Query<'a> {
    /// Returns the labels that its legend uses.
    pub fn legend_labels(&self) -> BTreeSet<&'a str> {
        self.legend.split("{{").skip(1).filter_map(|part| Some(part.split_once("}}")?.0.trim())).collect()
    }
}

/// Replaces variables, `$name` and `${name}`, by values, as Grafana does: the longest name first, so that
/// `$__range` is not taken for a prefix of `$__range_s`.
#[must_use]
pub fn interpolate(text: &str, values: &[(&str, &str)]) -> String {
    let mut values = values.to_vec();
    values.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    values.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value)
    })
}

/// Splits `label_values(selector, label)`.
#[must_use]
pub fn label_values(query: &str) -> Option<(&str, &str)> {
    let (selector, label) = query.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(',')?;
    Some((selector.trim(), label.trim()))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_legends_are_read_as_grafana_reads_them() {
        let values = [("__rate", "no"), ("__rate_interval", "4s"), ("member", "(a|b)")];
        let text = interpolate("rate(x{member=~\"$member\"}[$__rate_interval]) ${member}", &values);
        assert_eq!(text, "rate(x{member=~\"(a|b)\"}[4s]) (a|b)");
        assert_eq!(
            label_values("label_values(up{job=~\"a,b\"}, member)"),
            Some(("up{job=~\"a,b\"}", "member"))
        );
        assert_eq!(label_values("query_result(up)"), None);
        let query = Query { expression: "", legend: "p99 {{file}} {{ op }}", kind: QueryKind::Instant };
        assert_eq!(query.legend_labels().into_iter().collect::<Vec<_>>(), ["file", "op"]);
    }
}
