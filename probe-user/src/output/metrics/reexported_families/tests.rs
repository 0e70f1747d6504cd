use super::*;
use crate::analysis::reexport::{AllowList, collect};

const ETCD: &str = include_str!("../../../../testdata/etcd-3.5.30-metrics.txt");

fn copy(text: &str, patterns: &[&str]) -> Arc<ReexportedMetrics> {
    let allowed = AllowList::parse(&patterns.iter().map(|&pattern| pattern.to_owned()).collect::<Vec<_>>());
    Arc::new(collect(&format!("{text}{ETCD}"), &allowed.expect("patterns")))
}

fn written(members: &[(&str, Arc<ReexportedMetrics>)], format: Format) -> String {
    let members: Vec<_> = members.iter().map(|(name, copy)| ((*name).to_owned(), copy.clone())).collect();
    let mut out = match format {
        Format::OpenMetrics => "up 1\n# EOF\n".to_owned(),
        Format::Prometheus => "up 1\n".to_owned(),
    };
    append(&mut out, &members, format);
    out
}

#[test]
fn several_members_share_one_family() {
    let text = "# HELP x It \"is\".\n# TYPE x counter\nx{a=\"}\"} 1\nx 2\n";
    let members =
        [("one", copy(text, &["x"])), ("\"two\"\\", copy("x 3\n", &["x"])), ("three", copy(text, &["x"]))];
    let samples = "x{member=\"one\",a=\"}\"} 1\nx{member=\"one\"} 2\n\
                   x{member=\"three\",a=\"}\"} 1\nx{member=\"three\"} 2\n";
    assert_eq!(
        written(&members, Format::Prometheus),
        format!("up 1\n# HELP x It \"is\".\n# TYPE x counter\n{samples}"),
        "the second member's family has another type"
    );
    assert_eq!(
        written(&members, Format::OpenMetrics),
        format!("up 1\n# HELP x It \\\"is\\\".\n# TYPE x unknown\n{samples}# EOF\n")
    );
    let escaped = written(&members[1..2], Format::Prometheus);
    assert_eq!(escaped, "up 1\n# TYPE x untyped\nx{member=\"\\\"two\\\"\\\\\"} 3\n");
    assert_eq!(written(&[], Format::OpenMetrics), "up 1\n# EOF\n", "no member");
}

#[test]
fn family_names_follow_the_rules_of_each_format() {
    let cases = [
        ("# TYPE x_total counter\nx_total 1\n", "x counter", "x_total counter", "a counter"),
        ("# TYPE x counter\nx 1\n", "x unknown", "x counter", "a counter without its suffix"),
        ("# TYPE x_total gauge\nx_total 1\n", "x_total gauge", "x_total gauge", "a gauge with the suffix"),
        (
            "# TYPE x_total histogram\nx_total_sum 1\n",
            "x_total histogram",
            "x_total histogram",
            "a histogram with the suffix",
        ),
        ("x 1\n", "x unknown", "x untyped", "no type"),
        (
            "# TYPE _total counter\n_total 1\n",
            "_total unknown",
            "_total counter",
            "no name remains without its suffix",
        ),
        (
            "# TYPE x gauge\nx 1\n# TYPE x_total counter\nx_total 1\n",
            "x_total unknown",
            "x_total counter",
            "its name would be the name of another family",
        ),
        (
            "# TYPE x histogram\nx_sum 1\n# TYPE x_count_total counter\nx_count_total 1\n",
            "x_count_total unknown",
            "x_count_total counter",
            "its name would be a series of another family",
        ),
    ];
    for (text, open_metrics, prometheus, why) in cases {
        let members = [("m", copy(text, &["x*", "_total"]))];
        for (format, expected) in [(Format::OpenMetrics, open_metrics), (Format::Prometheus, prometheus)] {
            let out = written(&members, format);
            assert!(out.contains(&format!("# TYPE {expected}\n")), "{why}: {out}");
        }
    }
}

/// The output for a real member with two peers, the whole allow-list and additional families.
/// `UPDATE_GOLDEN=1` rewrites the files.
#[test]
fn a_real_etcd_is_as_recorded() {
    let patterns = ["+go_memstats_*", "etcd_server_health_*", "etcd_debugging_lease_ttl_total"];
    for (format, file) in
        [(Format::OpenMetrics, "reexported.openmetrics"), (Format::Prometheus, "reexported.prom")]
    {
        let text = written(&[("infra-1", copy("", &patterns))], format);
        let path = format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).expect("the file can be written");
        }
        let golden = std::fs::read_to_string(&path).expect("the file is in the repository");
        assert_eq!(text, golden, "{file}");
    }
}
