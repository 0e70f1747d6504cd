//! The metrics and labels that a `PromQL` expression uses, checked against a page of metrics.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow};
use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};

use crate::probe::metrics::Metrics;

/// Target labels from Prometheus' own configuration, which no page of metrics contains.
const OF_TARGETS: [&str; 3] = ["cluster", "instance", "job"];

/// Series that Prometheus adds to each scrape.
const OF_SCRAPES: [&str; 4] =
    ["up", "scrape_duration_seconds", "scrape_samples_post_metric_relabeling", "scrape_samples_scraped"];

/// Known names and label values: by metric, then by label.
#[derive(Clone, Debug, Default)]
pub struct Known(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Known {
    /// Adds the content of a page. Families without series there are taken from `recorded`, a page with all
    /// of them.
    pub fn of(page: &str, recorded: &str) -> anyhow::Result<Self> {
        let mut known = Self::default();
        known.learn(page)?;
        let mut all = Self::default();
        all.learn(recorded)?;
        let declared: BTreeSet<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let declared: BTreeSet<_> = declared.iter().filter_map(|line| line.split(' ').next()).collect();
        for (metric, labels) in all.0 {
            if declared.contains(metric.as_str()) {
                known.0.entry(metric).or_insert(labels);
            }
        }
        Ok(known)
    }

    fn learn(&mut self, page: &str) -> anyhow::Result<()> {
        for sample in Metrics::parse(page)?.samples {
            let labels = self.0.entry(sample.name).or_default();
            for (label, value) in sample.labels {
                labels.entry(label).or_default().insert(value);
            }
        }
        Ok(())
    }

    /// Returns all unknown metrics, labels and values in an expression, one sentence each.
    pub fn unknown_names(&self, expression: &str) -> anyhow::Result<Vec<String>> {
        let parsed = parser::parse(expression).map_err(|error| anyhow!(error))?;
        let mut visitor = Visitor { known: self, strangers: Vec::new() };
        walk_expr(&mut visitor, &parsed).with_context(|| format!("cannot walk {expression}"))?;
        Ok(visitor.strangers)
    }

    fn has_label(&self, metric: &str, label: &str) -> bool {
        OF_TARGETS.contains(&label) || self.0.get(metric).is_some_and(|labels| labels.contains_key(label))
    }
}

struct Visitor<'a> {
    known: &'a Known,
    strangers: Vec<String>,
}

impl ExprVisitor for Visitor<'_> {
    type Error = anyhow::Error;

    fn pre_visit(&mut self, expression: &Expr) -> anyhow::Result<bool> {
        match expression {
            Expr::VectorSelector(selector) => self.check(selector),
            Expr::MatrixSelector(matrix) => self.check(&matrix.vs),
            Expr::Aggregate(aggregate) => {
                if let Some(modifier) = &aggregate.modifier {
                    self.check_labels(modifier, &aggregate.expr)?;
                }
            }
            Expr::Binary(binary) => {
                if let Some(modifier) =
                    binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref())
                {
                    self.check_labels(modifier, &binary.lhs)?;
                    // An ignored label exists only on the other side.
                    if modifier.is_include() {
                        self.check_labels(modifier, &binary.rhs)?;
                    }
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

impl Visitor<'_> {
    fn check(&mut self, selector: &VectorSelector) {
        let Some(metric) = &selector.name else {
            self.strangers.push(format!("`{selector}` names no metric"));
            return;
        };
        let labels = self.known.0.get(metric);
        if labels.is_none() && !OF_SCRAPES.contains(&metric.as_str()) {
            self.strangers.push(format!("there is no metric {metric}"));
            return;
        }
        let alternatives = selector.matchers.or_matchers.iter().flatten();
        for matcher in selector.matchers.matchers.iter().chain(alternatives) {
            let label = &matcher.name;
            if !self.known.has_label(metric, label) {
                self.strangers.push(format!("{metric} has no label {label}"));
                continue;
            }
            let values = labels.and_then(|labels| labels.get(label));
            for value in literals(matcher) {
                if values.is_some_and(|values| !values.contains(value)) {
                    self.strangers.push(format!("{label} of {metric} is never {value:?}"));
                }
            }
        }
    }

    /// Checks that every metric below has the labels of a grouping or matching clause.
    fn check_labels(&mut self, modifier: &LabelModifier, below: &Expr) -> anyhow::Result<()> {
        let mut names = Names(BTreeSet::new());
        walk_expr(&mut names, below)?;
        for label in &modifier.labels().labels {
            for metric in names.0.iter().filter(|metric| !self.known.has_label(metric, label)) {
                self.strangers.push(format!("{metric} cannot be distinguished by {label}"));
            }
        }
        Ok(())
    }
}

/// Returns the literal values of a matcher: one, or the alternatives of a choice. Patterns are not checked.
fn literals(matcher: &Matcher) -> Vec<&str> {
    match matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => vec![&matcher.value],
        MatchOp::Re(_) | MatchOp::NotRe(_) => {
            let is_word = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            matcher.value.trim_matches(['(', ')']).split('|').filter(|part| is_word(part)).collect()
        }
    }
}

/// Collects the names of all metrics.
struct Names(BTreeSet<String>);

impl ExprVisitor for Names {
    type Error = anyhow::Error;

    fn pre_visit(&mut self, expression: &Expr) -> anyhow::Result<bool> {
        match expression {
            Expr::VectorSelector(selector) => self.0.extend(selector.name.clone()),
            Expr::MatrixSelector(matrix) => self.0.extend(matrix.vs.name.clone()),
            _ => {}
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE waits counter\nwaits{member=\"a\",cause=\"flush\"} 1\nwaits{member=\"a\",cause=\"lock\"} 1\n\
                        # TYPE errors counter\n";
    const RECORDED: &str =
        "# TYPE errors counter\nerrors{member=\"b\",errno=\"EIO\"} 2\n# TYPE gone counter\ngone 1\n";

    #[test]
    fn unknown_names_are_reported() {
        let known = Known::of(PAGE, RECORDED).unwrap();
        let cases: [(&str, &[&str], &str); 11] = [
            ("sum by (cluster, cause) (rate(waits{member=~\"a\"}[1m]))", &[], "all exist"),
            ("sum by (errno) (errors{member=\"b\"})", &[], "a family without series is looked up"),
            ("max(up{job=\"x\"}) - scrape_duration_seconds", &[], "Prometheus' own"),
            ("gone", &["there is no metric gone"], "only recorded, not served"),
            ("wait", &["there is no metric wait"], "a slip"),
            ("waits{couse=\"flush\"}", &["waits has no label couse"], "a slip in a label"),
            (
                "waits{cause=~\"flush|journal\", cause!=\"lock\"}",
                &["cause of waits is never \"journal\""],
                "a choice",
            ),
            ("sum by (file) (waits)", &["waits cannot be distinguished by file"], "a slip in a group"),
            (
                "waits / on (errno) errors",
                &["waits cannot be distinguished by errno"],
                "both sides need the labels of the matching",
            ),
            ("errors unless ignoring (errno) up", &[], "the left side has the ignored label"),
            (
                "{member=\"a\"}",
                &["`{member=\"a\"}` names no metric"],
                "an expression without a metric is a mistake",
            ),
        ];
        for (expression, expected, why) in cases {
            assert_eq!(known.unknown_names(expression).unwrap(), expected, "{expression}: {why}");
        }
        assert!(known.unknown_names("sum(").is_err(), "an expression that cannot be parsed is an error");
    }
}
