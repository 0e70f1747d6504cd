//! The shipped rules and promtool's tests of them, as values.
//!
//! Five minutes in production take ten seconds in a live test: [`RuleFile::shorten`] divides every duration
//! of a rule by one factor, so the tested rules are the shipped ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use promql_parser::parser::{self, Expr, Offset};
use promql_parser::util::parse_duration;
use promql_parser::util::visitor::{ExprVisitorMut, walk_expr_mut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Returns the path of a file or directory of the repository.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(path)
}

/// Reads a YAML file.
pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))
}

/// A rule file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    pub groups: Vec<Group>,
}

/// Rules that are evaluated in sequence.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub rules: Vec<Rule>,
}

/// An alerting or a recording rule.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    pub expr: String,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

impl RuleFile {
    /// Reads a shipped rule file: `alerts.yaml` or `records.yaml`.
    pub fn shipped(name: &str) -> anyhow::Result<Self> {
        read(&in_repository("deploy/chart/etcd-disk-probe/files").join(name))
    }

    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.groups.iter().flat_map(|group| &group.rules)
    }

    /// Divides every duration by `factor`: ranges, subquery steps, offsets, and the `for` of an alert.
    /// Numbers stay: a share does not depend on the length of its window.
    pub fn shorten(&mut self, factor: u32) -> anyhow::Result<()> {
        for rule in self.groups.iter_mut().flat_map(|group| &mut group.rules) {
            let mut parsed = rule.parse()?;
            walk_expr_mut(&mut Shorten(factor), &mut parsed)?;
            rule.expr = parsed.to_string();
            if let Some(hold) = &mut rule.hold {
                *hold = divide(hold, factor)?;
            }
        }
        Ok(())
    }

    /// Writes it as JSON, which is valid YAML.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Rule {
    pub fn name(&self) -> &str {
        self.alert.as_deref().or(self.record.as_deref()).unwrap_or_default()
    }

    pub fn parse(&self) -> anyhow::Result<Expr> {
        parser::parse(&self.expr).map_err(|error| anyhow!("cannot parse {}: {error}", self.name()))
    }
}

struct Shorten(u32);

impl Shorten {
    fn offset(&self, offset: &mut Option<Offset>) {
        if let Some(Offset::Pos(duration) | Offset::Neg(duration)) = offset {
            *duration /= self.0;
        }
    }
}

impl ExprVisitorMut for Shorten {
    type Error = anyhow::Error;

    fn pre_visit(&mut self, expression: &mut Expr) -> anyhow::Result<bool> {
        match expression {
            Expr::MatrixSelector(matrix) => {
                matrix.range /= self.0;
                self.offset(&mut matrix.vs.offset);
            }
            Expr::Subquery(subquery) => {
                subquery.range /= self.0;
                subquery.step = subquery.step.map(|step| step / self.0);
                self.offset(&mut subquery.offset);
            }
            Expr::VectorSelector(selector) => self.offset(&mut selector.offset),
            _ => {}
        }
        Ok(true)
    }
}

/// Divides a duration in the notation of Prometheus and Alertmanager.
pub fn divide(duration: &str, factor: u32) -> anyhow::Result<String> {
    let whole = parse_duration(duration).map_err(|error| anyhow!("cannot parse {duration}: {error}"))?;
    Ok(format!("{}ms", (whole / factor).as_millis()))
}

/// Returns every range of an expression, including subquery ranges.
pub fn ranges(expression: &Expr) -> anyhow::Result<Vec<Duration>> {
    let mut ranges = Ranges(Vec::new());
    walk_expr_mut(&mut ranges, &mut expression.clone())?;
    Ok(ranges.0)
}

struct Ranges(Vec<Duration>);

impl ExprVisitorMut for Ranges {
    type Error = anyhow::Error;

    fn pre_visit(&mut self, expression: &mut Expr) -> anyhow::Result<bool> {
        match expression {
            Expr::MatrixSelector(matrix) => self.0.push(matrix.range),
            Expr::Subquery(subquery) => self.0.push(subquery.range),
            _ => {}
        }
        Ok(true)
    }
}

/// A file of promtool tests: only the fields that are checked here.
#[derive(Clone, Debug, Deserialize)]
pub struct TestFile {
    pub tests: Vec<Case>,
}

/// A group of series and the expected results.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    pub name: String,
    pub input_series: Vec<Series>,
    #[serde(default)]
    pub alert_rule_test: Vec<AlertTest>,
    #[serde(default)]
    pub promql_expr_test: Vec<ExpressionTest>,
}

/// A series, in promtool's notation.
#[derive(Clone, Debug, Deserialize)]
pub struct Series {
    pub series: String,
    pub values: String,
}

/// The alerts that fire at one time.
#[derive(Clone, Debug, Deserialize)]
pub struct AlertTest {
    pub alertname: String,
    pub exp_alerts: Vec<serde_json::Value>,
}

/// The value of an expression at one time.
#[derive(Clone, Debug, Deserialize)]
pub struct ExpressionTest {
    pub expr: String,
    pub exp_samples: Vec<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_shortened_and_no_number() {
        let cases = [
            ("max_over_time(up[5m]) == 0", "max_over_time(up[10s]) == 0", "a range"),
            ("increase((a or b)[15m:1m]) > 60", "increase((a or b)[30s:2s]) > 60", "a subquery and its step"),
            ("a[1h] offset 30m", "a[2m] offset 1m", "an offset"),
            ("a offset 1h > 30 * 86400", "a offset 2m > 30 * 86400", "no number"),
            (
                "# five minutes\nrate(a{le=\"5m\"}[30s])",
                "rate(a{le=\"5m\"}[1s])",
                "neither a comment nor a label",
            ),
        ];
        for (expression, expected, why) in cases {
            let text = format!("groups: [{{name: g, rules: [{{alert: A, expr: {expression:?}, for: 2m}}]}}]");
            let mut file: RuleFile = serde_saphyr::from_str(&text).unwrap();
            file.shorten(30).unwrap();
            let rule = file.rules().next().unwrap();
            assert_eq!(rule.expr, expected, "{why}");
            assert_eq!(rule.hold.as_deref(), Some("4000ms"), "{why}");
        }
    }
}
