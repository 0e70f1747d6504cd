use std::fmt::Write;

use super::*;
use crate::analysis::exposition::{self, Line};
use allow_list::DEFAULT;

const ETCD: &str = include_str!("../../../testdata/etcd-3.5.30-metrics.txt");

fn list(patterns: &[&str]) -> AllowList {
    AllowList::parse(&patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>())
        .expect("patterns")
}

/// Collects from a text that precedes a real etcd's text.
fn collect_text(text: &str, patterns: &[&str]) -> ReexportedMetrics {
    collect(&format!("{text}{ETCD}"), &list(patterns))
}

fn samples(reexported: &ReexportedMetrics) -> Vec<&str> {
    reexported.families().flat_map(|family| family.samples.lines()).collect()
}

#[test]
fn allowed_families_are_reexported_byte_for_byte_and_no_others() {
    let reexported = collect_text("", &DEFAULT);
    assert_eq!(reexported.omitted, OmittedSamples::default());
    let allowed = list(&DEFAULT);
    let mut expected: Vec<&str> = ETCD
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter(|line| {
            let name = line.split(['{', ' ']).next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            allowed.allows(name) || of_histogram.is_some_and(|family| allowed.allows(family))
        })
        .collect();
    let mut found = samples(&reexported);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(found.len(), 189, "all families of the default list, for a member with two peers");
    for family in reexported.families() {
        let help = format!("# HELP {} {}\n", family.name, family.help.expect("etcd describes its metrics"));
        assert!(ETCD.contains(&help), "{help}");
        let kind = format!("# TYPE {} {}\n", family.name, format!("{:?}", family.kind).to_lowercase());
        assert!(ETCD.contains(&kind), "{kind}");
    }
}

#[test]
fn each_line_of_etcd_becomes_one_line() {
    let cases = [
        ("x 1", "x 1", "unchanged"),
        ("x{} 1 1395066363000", "x 1", "no timestamp"),
        ("x { a = \"1\" , } NaN", "x{a=\"1\"} NaN", "blanks between the parts"),
        ("x{a=\"\\\\\\\"\\n,}{=🦀\"} 1", "x{a=\"\\\\\\\"\\n,}{=🦀\"} 1", "escapes"),
        ("x{member=\"a\"} 1", "x{exported_member=\"a\"} 1", "a label of the probe"),
        (
            "x{member=\"a\",exported_member=\"b\"} 1",
            "x{exported_exported_member=\"a\",exported_member=\"b\"} 1",
            "and its new name is taken, too",
        ),
    ];
    for (from, to, why) in cases {
        let reexported = collect_text(&format!("{from}\n"), &["x"]);
        assert_eq!(samples(&reexported), [to], "{why}");
        assert_eq!(reexported.omitted, OmittedSamples::default(), "{why}");
    }
}

#[test]
fn refused_names_do_not_hide_names_with_the_same_prefix() {
    let text = "no 1\nno{a=\"b\"} 1\nnono 1\nno 1\nno_more 1\nno 1\nno:more 1\nno 1\nno9 1\nno 1\nn 1\n";
    let reexported = collect_text(text, &["n", "no9", "no:more", "no_more", "nono"]);
    assert_eq!(samples(&reexported), ["n 1", "no9 1", "no:more 1", "no_more 1", "nono 1"]);
}

#[test]
fn invalid_samples_are_omitted_and_counted() {
    let (malformed, duplicate, conflicting) = (
        OmittedSamples { malformed: 1, ..OmittedSamples::default() },
        OmittedSamples { duplicate: 1, ..OmittedSamples::default() },
        OmittedSamples { conflicting: 1, ..OmittedSamples::default() },
    );
    let histogram = "# TYPE x histogram\n";
    let cases = [
        ("x{a=\"1\" 1\n", malformed, &[][..], "a line that cannot be parsed"),
        ("x 1\nx 2\n", duplicate, &["x 1"], "the second of two"),
        (
            "x{a=\"1\",b=\"2\"} 1\nx{b=\"2\",a=\"1\"} 1\n",
            duplicate,
            &["x{a=\"1\",b=\"2\"} 1"],
            "in another order",
        ),
        ("x{a=\"\"} 1\nx 1\n", duplicate, &["x{a=\"\"} 1"], "a label without a value does not count"),
        ("# TYPE x counter\nx -1\n", malformed, &[], "a negative counter"),
        ("# TYPE x counter\nx NaN\n", malformed, &[], "a counter cannot be NaN"),
        ("# TYPE x gauge\nx NaN\n", OmittedSamples::default(), &["x NaN"], "a gauge can be NaN"),
        (&format!("{histogram}x 1\n"), malformed, &[], "a histogram has no value of its own"),
        (&format!("{histogram}x_bucket 1\n"), malformed, &[], "a bucket without a bound"),
        (&format!("{histogram}x_bucket{{le=\"one\"}} 1\n"), malformed, &[], "a bound that is not a number"),
        (&format!("{histogram}x_bucket{{le=\"1\"}} -1\n"), malformed, &[], "a negative count in a bucket"),
        (
            &format!("{histogram}x_sum -1\n"),
            OmittedSamples::default(),
            &["x_sum -1"],
            "a sum may be negative",
        ),
        (
            "# TYPE x summary\nx{quantile=\"0.5\"} 1\n",
            OmittedSamples::default(),
            &["x{quantile=\"0.5\"} 1"],
            "a quantile",
        ),
        ("# TYPE x summary\nx 1\n", malformed, &[], "a summary has no value without a quantile"),
        ("x 1\n# TYPE x gauge\n", malformed, &["x 1"], "a type after its samples"),
        ("# TYPE x gauge\n# TYPE x counter\nx -1\n", malformed, &["x -1"], "a second type"),
        ("# HELP x a\n# HELP x b\nx 1\n", malformed, &["x 1"], "a second help"),
        ("# TYPE x blob\nx 1\n", malformed, &["x 1"], "no such type"),
        (
            &format!("{histogram}x_sum 1\n# TYPE x_count gauge\nx_count 1\n"),
            conflicting,
            &["x_sum 1"],
            "a name that is taken",
        ),
        (
            "# TYPE x_count gauge\nx_count 1\n# TYPE x histogram\nx_sum 1\n",
            conflicting,
            &["x_count 1"],
            "a histogram after the name that it needs",
        ),
        ("<html>\n", malformed, &[], "not a metric"),
        ("etcd_disk_probe_up 1\n", OmittedSamples::default(), &[], "the probe's own name"),
    ];
    for (text, omitted, expected, why) in cases {
        // The first line of a body must be a metric.
        let reexported = collect_text(&format!("first 1\n{text}"), &["x*", "etcd_disk_probe_*"]);
        assert_eq!(
            (samples(&reexported).as_slice(), reexported.omitted),
            (expected, omitted),
            "{text}: {why}"
        );
    }
}

#[test]
fn an_oversized_family_affects_no_other_family() {
    let flood = |count: usize, width: usize| {
        let mut text = String::from("before 1\n# TYPE flood gauge\n");
        for n in 0..count {
            writeln!(text, "flood{{n=\"{n:0width$}\"}} 1").unwrap();
        }
        text + "flood_not 1\n"
    };
    let cases = [
        (1_990, 1, 0, "up to the limit"),
        (2_000, 1, 2_000, "too many, together with other families"),
        (50_000, 1, 50_000, "far too many"),
        (100, 6_000, 100, "few lines that are too long together"),
        (10, 20_000, 0, "lines that are too long individually"),
    ];
    for (count, width, expected, why) in cases {
        let reexported = collect_text(&flood(count, width), &["flood*", "before", "etcd_server_has_leader"]);
        assert_eq!(reexported.omitted.beyond_limit, expected, "{why}");
        let found = samples(&reexported);
        for other in ["before 1", "flood_not 1", "etcd_server_has_leader 1"] {
            assert!(found.contains(&other), "{why}: {other}");
        }
        assert!(found.len() <= MAX_SAMPLES && reexported.text.len() <= MAX_BYTES, "{why}");
    }
    let many: String = (0..5_000).fold(String::new(), |text, n| text + &format!("# HELP x{n} h\nx{n} 1\n"));
    let reexported = collect_text(&many, &["x*"]);
    assert_eq!(reexported.families().count() as u64 + reexported.omitted.beyond_limit, 5_000);
    assert!(samples(&reexported).len() <= MAX_SAMPLES);
}

#[test]
fn members_that_conflict_do_not_invalidate_the_output() {
    let one = collect_text("# HELP x one\n# TYPE x gauge\nx 1\n# TYPE h histogram\nh_sum 1\n", &["x", "h*"]);
    let same = collect_text("# HELP x other\n# TYPE x gauge\nx 2\n", &["x", "h*"]);
    let other = collect_text("# TYPE x counter\nx 3\nh_sum 3\n", &["x", "h*"]);
    let families = merge([("a", &one), ("b", &same), ("c", &other)].into_iter());
    let x = families.iter().find(|family| family.name == "x").expect("x is present");
    assert_eq!((x.kind, x.help), (FamilyType::Gauge, Some("one")), "of the first member");
    assert_eq!(x.samples, [("a", "x 1\n"), ("b", "x 2\n")]);
    let lost = |before: &[&ReexportedMetrics], own| conflicting(before.iter().copied(), own);
    assert_eq!(lost(&[&one, &same], &other), 2, "another type, and a sample name of a histogram");
    assert_eq!(
        lost(&[&one, &other], &other),
        2,
        "although a member before has the same families, which are omitted, too"
    );
    assert_eq!(
        [lost(&[], &one), lost(&[&one], &same)],
        [0, 0],
        "the first member, and one without a conflict"
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Returns the value of a label with its escapes.
    fn written(value: &str) -> String {
        value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
    }

    fn values() -> impl Strategy<Value = String> {
        prop_oneof![
            proptest::collection::vec(
                any::<char>().prop_filter("ends Prometheus' text", |c| *c != '\0'),
                0..12
            )
            .prop_map(String::from_iter),
            "[\\\\\"\n{},=# ]{0,8}",
        ]
    }

    fn numbers() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<f64>()
                .prop_filter("finite", |number| number.is_finite())
                .prop_map(|number| format!("{number:e}")),
            any::<i32>().prop_map(|number| number.to_string()),
            proptest::sample::select(vec!["NaN", "+Inf", "-Inf", "1e-400", ".5", "5.", "+7", "0.1E+9"])
                .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn unusual_labels_and_values_are_kept(
            labels in proptest::collection::btree_map("[a-z][a-z0-9_]{0,6}", values(), 0..5),
            number in numbers(),
            timestamp in proptest::option::of(any::<i64>()),
        ) {
            let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", written(value))).collect();
            let braces = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let line = format!("x{braces} {number}");
            let sent = timestamp.map_or(line.clone(), |at| format!("{line} {at}"));
            let reexported = collect_text(&format!("# TYPE x gauge\n{sent}\n"), &["x"]);
            let expected = if labels.iter().any(|label| label.starts_with("member=")) {
                line.replace("member=", "exported_member=")
            } else {
                line
            };
            prop_assert_eq!(samples(&reexported), [expected.as_str()]);
            prop_assert_eq!(reexported.omitted, OmittedSamples::default());
        }

        #[test]
        fn any_input_yields_valid_output(
            lines in proptest::collection::vec(
                prop_oneof![
                    "# (TYPE|HELP) x(_sum|_count|_bucket)? (gauge|counter|histogram|summary|untyped|\\\\n|x)",
                    "x(_sum|_count|_bucket)?(\\{[ab]=\"[01\\\\n\"]?\",?\\}|\\{le=\"(1|Inf|x)\"\\})? (-1|1|NaN|Inf|1e999)( [19]?)",
                    "[x_#{}=\",\\\\ \t1a]{0,20}",
                ],
                0..30,
            ),
        ) {
            let reexported = collect_text(&format!("first 1\n{}\n", lines.join("\n")), &["x*"]);
            let mut seen = std::collections::BTreeSet::new();
            for family in reexported.families() {
                prop_assert!(family.samples.ends_with('\n'));
                if let Some(help) = family.help {
                    let help = format!("# HELP {} {help}", family.name);
                    prop_assert!(matches!(exposition::read(&help), Ok(Line::Help { .. })), "{}", help);
                }
                for line in family.samples.lines() {
                    let Ok(Line::Sample(sample)) = exposition::read(line) else { panic!("{line} is not a sample") };
                    let part = sample.name.strip_prefix(family.name).expect("of its family");
                    prop_assert!(part.is_empty() || family.kind.suffixes().contains(&part), "{}", line);
                    prop_assert!(seen.insert((sample.name, sample.labels.clone())), "{} twice", line);
                }
            }
        }
    }
}
