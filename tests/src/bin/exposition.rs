//! Encodes the metrics of one busy member a given number of times and does nothing else: its instructions are
//! counted.

use std::collections::BTreeMap;
use std::hint::black_box;

use anyhow::Context;
use probe_ebpf::histogram::SLOTS;
use probe_ebpf::series::OPERATIONS;
use probe_user::analysis::assessment::CrosscheckTotals;
use probe_user::analysis::causes::PerCause;
use probe_user::analysis::disk_metric::PerMetric;
use probe_user::analysis::latency::{Exported, Latencies, TimeSpent};
use probe_user::analysis::snapshot::{
    DiskMetricSnapshot, MemberSnapshot, MetricsSnapshot, Operation, ProgramRuns,
};
use probe_user::analysis::verdict::Verdict;
use probe_user::output::metrics::{Format, encode};

fn main() -> anyhow::Result<()> {
    let times: u32 = std::env::args()
        .nth(1)
        .context("cannot start without a number of encodings")?
        .parse()
        .context("cannot parse the number of encodings")?;
    let mut bytes = 0;
    for _ in 0..times {
        bytes += black_box(encode(black_box(snapshot()), Format::Prometheus)?).len();
    }
    println!("{bytes}");
    Ok(())
}

/// Latencies of every length.
fn latencies() -> Exported {
    let slots: [u64; SLOTS] = std::array::from_fn(|slot| slot as u64 % 7);
    Exported::from(&Latencies::new(Box::new(slots), 1_234_567_890_123, 65_000_000_000, 1 << 40))
}

fn snapshot() -> MetricsSnapshot {
    let figure = || DiskMetricSnapshot {
        latencies: latencies(),
        crosscheck: CrosscheckTotals {
            kernel_events: 123_456,
            etcd_events: 123_456,
            difference: 0,
            origin_uncertainty: Some(0),
            unverified: 0,
            violations: [0; 2],
            overhead_s: 1.5,
        },
    };
    let operations = OPERATIONS.map(|(role, op)| Operation {
        role,
        op,
        latencies: latencies(),
        time: Some(TimeSpent {
            sum_ns: 9_000,
            on_cpu_ns: 4_000,
            run_queue_ns: 3_000,
            ..TimeSpent::default()
        }),
        waits: PerCause::from_fn(|_| 1_000),
        errors: BTreeMap::new(),
    });
    MetricsSnapshot {
        hook: "tracepoint",
        self_test_passed: true,
        web_config_reloaded: None,
        misses: probe_ebpf::miss::Miss::ALL.map(|miss| (miss.as_str(), 0)).to_vec(),
        runs: vec![ProgramRuns::default(); 16],
        members: vec![MemberSnapshot {
            name: "member".to_owned(),
            figures: PerMetric::from_fn(|_| figure()),
            rotation: latencies(),
            operations: operations.to_vec(),
            in_flight_s: vec![("wal", 0.0), ("backend", 0.0)],
            verdict: Verdict::Healthy,
            etcd_up: true,
            scrape_age_s: Some(0.5),
            reexported: None,
            scrape_errors: BTreeMap::new(),
            certificate_ends_s: [Some(1_924_905_600); 3],
            data_dir: "/var/lib/etcd".to_owned(),
            device: "/dev/vda1".to_owned(),
            filesystem: "ext4".to_owned(),
            version: "3.5.16".to_owned(),
        }],
    }
}
