//! The shipped rules: promtool's own tests of them, and their completeness.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Parser as _;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::observability::prometheus;
use probe_tests::observability::rules::{self, Case, Rule, RuleFile, TestFile};
use probe_user::config::Args;
use probe_user::verdict::Verdict;
use promql_parser::parser::{Expr, LabelModifier};
use promql_parser::util::parse_duration;

/// The directory of the project's runbooks.
const RUNBOOKS: &str = "https://github.com/etcd-disk-probe/etcd-disk-probe/blob/main/docs/runbooks";

/// Alerts of etcd's mixin (contrib/mixin of 3.4 to 3.6, which kube-prometheus adopts), and alerts that others
/// add to it.
const TAKEN: [&str; 16] = [
    "etcdMembersDown",
    "etcdInsufficientMembers",
    "etcdNoLeader",
    "etcdHighNumberOfLeaderChanges",
    "etcdHighNumberOfFailedGRPCRequests",
    "etcdGRPCRequestsSlow",
    "etcdMemberCommunicationSlow",
    "etcdHighNumberOfFailedProposals",
    "etcdHighFsyncDurations",
    "etcdHighCommitDurations",
    "etcdHighNumberOfFailedHTTPRequests",
    "etcdHTTPRequestsSlow",
    "etcdBackendQuotaLowSpace",
    "etcdDatabaseQuotaLowSpace",
    "etcdExcessiveDatabaseGrowth",
    "etcdDatabaseHighFragmentationRatio",
];

/// The sections of every runbook, in this order.
const SECTIONS: [&str; 4] =
    ["## What it means", "## How to see it", "## What to do", "## When it is harmless"];

/// The labels that a recording rule may aggregate by: those with few, known values.
const LEVELS: [&str; 6] = ["cluster", "job", "member", "le", "verdict", "cause"];

/// Verdicts that require no action; and one that the alert on operations in flight covers better.
const NO_ALERT: [Verdict; 3] = [Verdict::Healthy, Verdict::TooFewSamples, Verdict::Stalled];

fn alerts() -> Vec<Rule> {
    RuleFile::shipped("alerts.yaml").unwrap().rules().cloned().collect()
}

fn test_files() -> Vec<PathBuf> {
    let directory = rules::in_repository("deploy/prometheus/tests");
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs promtool and fails with its output if it fails.
fn promtool(words: &[&str], files: &[PathBuf]) {
    requirements::require(&[Need::Prometheus]);
    let output =
        Command::new(prometheus::find("promtool").unwrap()).args(words).args(files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn promtool_finds_nothing_wrong() {
    let files = ["alerts.yaml", "records.yaml"]
        .map(|name| rules::in_repository("deploy/chart/etcd-disk-probe/files").join(name));
    promtool(&["check", "rules"], &files);
}

#[test]
fn promtools_tests_pass() {
    promtool(&["test", "rules"], &test_files());
}

/// The name of a case contains its alert and its kind; `promtool` verifies its expectations.
#[test]
fn every_alert_has_a_case_that_fires_it_one_that_does_not_and_a_gap() {
    let mut kinds: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for file in test_files() {
        for case in rules::read::<TestFile>(&file).unwrap().tests {
            let Some((alert, kind)) = case.name.split_once(' ').filter(|_| case.name.starts_with("Etcd"))
            else {
                continue;
            };
            kinds.entry(alert.to_owned()).or_default().insert(kind_of(&case, alert, kind));
        }
    }
    let all = BTreeSet::from(["fires", "stays quiet", "survives a gap"]);
    let expected: BTreeMap<_, _> =
        alerts().iter().map(|rule| (rule.name().to_owned(), all.clone())).collect();
    assert_eq!(kinds, expected);
}

/// Returns the kind of a case if it matches its name.
fn kind_of(case: &Case, alert: &str, kind: &str) -> &'static str {
    let expected: Vec<_> = case.alert_rule_test.iter().filter(|test| test.alertname == alert).collect();
    if kind.starts_with("fires") {
        let fires = expected.iter().any(|test| !test.exp_alerts.is_empty());
        assert!(fires, "{}: it never fires", case.name);
        "fires"
    } else if kind.starts_with("stays quiet") {
        let is_quiet = !expected.is_empty() && expected.iter().all(|test| test.exp_alerts.is_empty());
        assert!(is_quiet, "{}: it must stay quiet at every time", case.name);
        "stays quiet"
    } else if kind.starts_with("survives a gap") {
        // `_x8` between two values.
        let has_gap = case.input_series.iter().any(|series| {
            let values: Vec<_> = series.values.split(' ').collect();
            let gap = values.iter().position(|value| value.starts_with('_'));
            gap.is_some_and(|gap| gap > 0 && gap + 1 < values.len()) && series.series.contains('{')
        });
        assert!(has_gap, "{}: no series has a gap", case.name);
        let selector = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        let of_alert = case.promql_expr_test.iter().filter(|test| test.expr.contains(&selector));
        let fires = of_alert.filter(|test| !test.exp_samples.is_empty()).count();
        assert!(fires >= 2, "{}: it must fire at least at two times", case.name);
        "survives a gap"
    } else {
        panic!("{}: unknown kind of case", case.name)
    }
}

#[test]
fn every_alert_is_complete_and_has_a_unique_name() {
    let (mut names, alerts) = (BTreeSet::new(), alerts());
    for rule in &alerts {
        let name = rule.name();
        assert!(names.insert(name.to_lowercase()), "{name} occurs twice");
        assert!(name.starts_with("Etcd"), "{name}: all begin alike");
        assert!(!TAKEN.iter().any(|taken| taken.eq_ignore_ascii_case(name)), "{name} is etcd's own");
        let severity = rule.labels.get("severity").map(String::as_str);
        assert!(matches!(severity, Some("critical" | "warning")), "{name} has the severity {severity:?}");
        let keys: Vec<_> = rule.annotations.keys().map(String::as_str).collect();
        assert_eq!(keys, ["description", "runbook_url", "summary"], "{name}");
        assert_eq!(rule.annotations["runbook_url"], format!("{RUNBOOKS}/{name}.md"), "{name}");
        for (key, text) in &rule.annotations {
            assert!(
                !text.contains('\n') && text.len() > 10,
                "{name}: {key} is one sentence or two: {text:?}"
            );
        }
    }
}

/// Every notification must contain the verdict.
#[test]
fn every_verdict_that_requires_action_has_an_alert() {
    let alerts = alerts();
    for verdict in Verdict::ALL {
        let matcher = format!("{{verdict=\"{}\"}}", verdict.as_str());
        let has = alerts.iter().any(|rule| rule.expr.contains(&matcher));
        assert_eq!(has, !NO_ALERT.contains(&verdict), "{}", verdict.as_str());
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let directory = rules::in_repository("docs/runbooks");
    let index = fs::read_to_string(directory.join("README.md")).unwrap();
    let mut expected: BTreeSet<_> = BTreeSet::from(["README.md".to_owned()]);
    for rule in alerts() {
        let (name, severity) = (rule.name(), &rule.labels["severity"]);
        expected.insert(format!("{name}.md"));
        let text = fs::read_to_string(directory.join(format!("{name}.md"))).unwrap();
        assert!(text.starts_with(&format!("# {name}\n\nSeverity: {severity}\n")), "{name}");
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(headings, SECTIONS, "{name}");
        let commands: Vec<_> = text.lines().filter(|line| line.starts_with("etcd-disk-probe ")).collect();
        for command in ["check", "trace"] {
            let begin = format!("etcd-disk-probe {command}");
            assert!(commands.iter().any(|line| line.starts_with(&begin)), "{name}: no `{command}`");
        }
        for line in commands {
            Args::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{name}: {line}: {error}"));
        }
        assert!(
            index.contains(&format!("| [{name}]({name}.md) | {severity} | ")),
            "{name} is not in the index"
        );
    }
    let there = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
    let there: BTreeSet<_> = there.map(|name| name.into_string().unwrap()).collect();
    assert_eq!(there, expected);
}

/// A range shorter than two scrapes of a slow Prometheus would be empty; one longer than six hours costs more
/// than it is worth.
#[test]
fn durations_are_sane() {
    for rule in alerts() {
        for range in rules::ranges(&rule.parse().unwrap()).unwrap() {
            let sane = Duration::from_mins(2)..=Duration::from_hours(6);
            assert!(sane.contains(&range), "{}: a range of {range:?}", rule.name());
        }
        if let Some(hold) = &rule.hold {
            let hold = parse_duration(hold).unwrap();
            let sane = Duration::from_mins(1)..=Duration::from_mins(10);
            assert!(sane.contains(&hold), "{}: waits for {hold:?}", rule.name());
        }
    }
}

/// The cost of a recording rule may depend only on members, verdicts and causes.
#[test]
fn every_record_says_by_which_labels_it_aggregates() {
    for rule in RuleFile::shipped("records.yaml").unwrap().rules() {
        let name = rule.name();
        let parts: Vec<_> = name.split(':').collect();
        assert_eq!(parts.len(), 3, "{name} is level:metric:operations");
        assert!(parts[1].starts_with("etcd_disk_probe_"), "{name}");
        let labels = outermost(&rule.parse().unwrap());
        let expected = match parts[0] {
            "cluster" => vec!["cluster", "job"],
            "cluster_verdict" => vec!["cluster", "job", "verdict"],
            "cluster_cause" => vec!["cluster", "job", "cause"],
            "member" => vec!["cluster", "job", "member"],
            "member_verdict" => vec!["cluster", "job", "member", "verdict"],
            other => panic!("{name}: unknown level {other}"),
        };
        let without_bounds: Vec<_> = labels.iter().filter(|label| *label != "le").collect();
        assert_eq!(without_bounds, expected, "{name}");
        assert!(labels.iter().all(|label| LEVELS.contains(&label.as_str())), "{name}: {labels:?}");
    }
}

/// Returns the labels of the outermost aggregation.
fn outermost(expression: &Expr) -> Vec<String> {
    match expression {
        Expr::Aggregate(aggregate) => match &aggregate.modifier {
            Some(LabelModifier::Include(labels)) => labels.labels.clone(),
            other => panic!("{expression} aggregates by {other:?}"),
        },
        Expr::Call(call) => call.args.args.last().map(|last| outermost(last)).unwrap_or_default(),
        Expr::Paren(paren) => outermost(&paren.expr),
        _ => panic!("{expression} does not aggregate"),
    }
}
