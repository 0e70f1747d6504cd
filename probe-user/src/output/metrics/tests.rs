use std::{collections::BTreeMap, sync::Arc};

use probe_ebpf::series::OPERATIONS;

use super::*;
use crate::analysis::{
    assessment::CrosscheckTotals,
    causes::{Cause, PerCause},
    disk_metric::PerMetric,
    latency::{Latencies, TimeSpent},
    reexport::{AllowList, ReexportedMetrics, allow_list::DEFAULT, collect},
    snapshot::ProgramRuns,
    verdict::Verdict,
};

fn latencies(latencies_ns: &[u64]) -> Exported {
    let mut all = Latencies::default();
    for latency_ns in latencies_ns {
        all.record(*latency_ns);
    }
    all.bytes = 4096;
    Exported::from(&all)
}

fn reexported() -> ReexportedMetrics {
    let text = include_str!("../../../testdata/etcd-3.4.23-metrics.txt");
    let allowed = AllowList::parse(&DEFAULT.map(str::to_owned)).expect("a list");
    collect(text, &allowed)
}

fn snapshot() -> MetricsSnapshot {
    let figure = |latencies| DiskMetricSnapshot {
        latencies,
        crosscheck: CrosscheckTotals {
            kernel_events: 12,
            etcd_events: 11,
            difference: -1,
            origin_uncertainty: Some(0),
            unverified: 3,
            violations: [1, 0],
            overhead_s: 0.25,
        },
    };
    let (role, op) = OPERATIONS[0];
    let errors = BTreeMap::from([("ENOSPC", 2)]);
    let time = TimeSpent { sum_ns: 9_000, on_cpu_ns: 4_000, run_queue_ns: 3_000, ..TimeSpent::default() };
    let mut waits = PerCause::default();
    waits[Cause::Flush] = 2_000;
    MetricsSnapshot {
        hook: "tracepoint",
        self_test_passed: true,
        web_config_reloaded: Some(true),
        misses: vec![("unknown_file", 4)],
        runs: vec![
            ProgramRuns {
                program: "exit_fdatasync".to_owned(),
                count: 1_000,
                total_ns: 1_700_000,
                skipped: 0,
            },
            ProgramRuns { program: "not_counted".to_owned(), ..ProgramRuns::default() },
        ],
        members: vec![MemberSnapshot {
            name: "a \"quoted\" name".to_owned(),
            figures: PerMetric {
                wal_fsync: figure(latencies(&[500_000, 1_000_000, 70_000_000_000])),
                backend_commit: figure(latencies(&[])),
            },
            rotation: latencies(&[20_000_000]),
            operations: vec![Operation {
                role,
                op,
                latencies: latencies(&[9_000]),
                time: Some(time),
                waits,
                errors,
            }],
            in_flight_s: vec![("wal", 1.5)],
            verdict: Verdict::Healthy,
            etcd_up: true,
            scrape_age_s: Some(0.5),
            reexported: Some(Arc::new(reexported())),
            scrape_errors: BTreeMap::from([("refused", 1)]),
            certificate_ends_s: [Some(1_924_905_600), Some(1_796_000_000), None],
            data_dir: "/var/lib/etcd".to_owned(),
            device: "/dev/vda1".to_owned(),
            filesystem: "ext4".to_owned(),
            version: "3.5.16".to_owned(),
        }],
    }
}

/// A renamed metric appears in the diff. `UPDATE_GOLDEN=1 cargo test -p probe-user` rewrites the files.
#[test]
fn the_whole_text_is_as_recorded() {
    for (format, file) in [(Format::OpenMetrics, "metrics.openmetrics"), (Format::Prometheus, "metrics.prom")]
    {
        let text = encode(snapshot(), format).expect("strings take any text");
        let path = format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).expect("the file can be written");
        }
        let golden = std::fs::read_to_string(&path).expect("the file is in the repository");
        assert_eq!(text, golden, "{file}");
    }
}
