//! The recorded report and its schema: changes for people and programs appear in the diff.
//! `UPDATE_GOLDEN=1 cargo test -p probe-user` rewrites the files.

use std::{fs, path::Path};

use super::super::{text_report, *};
use crate::analysis::{
    causes::Cause,
    disk_metric::PerMetric,
    verdict::{
        Attribution, ClassTime, CpuEvidence, DeviceEvidence, InFlightNow, Neighbour, SlowTime, Verdict,
    },
};

fn compare(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).expect("the file can be written");
    }
    let golden = fs::read_to_string(&path).expect("the file is in the repository");
    assert_eq!(text, golden, "{file}");
}

fn plain(report: &Report) -> String {
    anstream::adapter::strip_str(&render(report)).to_string()
}

fn side(scale: f64, max_s: Option<f64>) -> LatencySummary {
    let of = |seconds: f64| Some(seconds * scale);
    LatencySummary {
        count: 1234,
        mean_s: of(0.004),
        p50_s: of(0.002),
        p99_s: of(0.04),
        p999_s: of(0.3),
        max_s,
    }
}

fn figure(metric: &'static str) -> FigureReport {
    FigureReport {
        metric,
        limit_s: 0.01,
        kernel: side(1.0, Some(1.2)),
        etcd: side(1.1, None),
        overhead_s: Some(0.000_05),
        crosscheck: Crosscheck {
            kernel_events: 5678,
            etcd_events: 5678,
            difference: 0,
            origin_uncertainty: Some(0),
            unverified: 3,
            violations: 0,
        },
    }
}

/// Returns a healthy member without details.
fn quiet() -> MemberReport {
    MemberReport {
        member: "node-1".to_owned(),
        verdict: Verdict::Healthy.as_str(),
        reason: "WAL fsync p99 is 1 ms in the kernel, limit 10 ms (1234 events)".to_owned(),
        since_s: None,
        causes: Vec::new(),
        next: Vec::new(),
        pid: Some(4321),
        version: Some("3.5.16".to_owned()),
        data_dir: "/var/lib/etcd".to_owned(),
        wal_dir: "/var/lib/etcd/member/wal".to_owned(),
        endpoint: Some("https://127.0.0.1:2379".to_owned()),
        window_s: 60.0,
        in_flight_s: 0.0,
        in_flight: None,
        figures: [figure("wal_fsync"), figure("backend_commit")],
        slow: SlowReport::new(&PerMetric::default(), Vec::new()),
        split: SplitReport {
            total_s: 5.0,
            on_cpu_s: Some(0.5),
            run_queue_s: Some(0.1),
            outside_kernel_s: Some(0.06),
        },
        device: None,
        neighbours: Vec::new(),
        cpu: CpuEvidence::default(),
        io_limits: Vec::new(),
        exit_code: Verdict::Healthy.exit_code(),
    }
}

/// Returns a member with all details.
fn busy() -> MemberReport {
    let mut slow = SlowTime { operations: 60, total_s: 9.0, on_cpu_s: 0.1, ..SlowTime::default() };
    for (cause, seconds) in [(Cause::Flush, 5.0), (Cause::Journal, 3.0), (Cause::Other, 0.7)] {
        slow.waits_s[cause] = seconds;
    }
    let class = |requests: u64| ClassTime {
        requests,
        total_s: 0.02 * requests as f64,
        queue_s: 0.001 * requests as f64,
        device_s: 0.019 * requests as f64,
        own_requests: requests / 10,
        kernel_requests: requests / 10,
        other_requests: requests - requests / 10 * 2,
    };
    let device = DeviceEvidence {
        name: "dm-0".to_owned(),
        layers: vec!["dm-0 (LVM vg-etcd)".to_owned(), "nvme0n1p2".to_owned(), "nvme0n1".to_owned()],
        model: Some("Amazon Elastic Block Store".to_owned()),
        cloud: Some("AWS"),
        scheduler: Some("none".to_owned()),
        write_cache: Some("write through".to_owned()),
        classes: [class(0), class(4000), class(300), class(0)],
    };
    let neighbour = |owner: &str, share: f64| Neighbour {
        cgroup: Some("/kubepods.slice".to_owned()),
        owner: owner.to_owned(),
        process: "postgres".to_owned(),
        requests: 3000,
        flushes: 250,
        syncs: 250,
        discards: 0,
        bytes: 700 << 20,
        share,
    };
    let attribution = Attribution {
        verdict: Verdict::NoisyNeighbour,
        seconds: 8.9,
        share: 1.0,
        reason: "80 % of the load on dm-0 comes from pod default/postgres-0".to_owned(),
    };
    MemberReport {
        verdict: attribution.verdict.as_str(),
        exit_code: attribution.verdict.exit_code(),
        reason: format!(
            "WAL fsync p99 is 40 ms in the kernel, limit 10 ms (1234 events). {}",
            attribution.reason
        ),
        since_s: Some(754.0),
        causes: vec![attribution.into()],
        next: vec![
            "move pod default/postgres-0 to another disk, or limit it with io.max of its cgroup".to_owned(),
            "put etcd's WAL on a dedicated device: --wal-dir".to_owned(),
        ],
        in_flight_s: 0.2,
        in_flight: Some(InFlightNow {
            age_s: 0.2,
            file: "wal",
            op: "fdatasync",
            waits_for: Some("flush".to_owned()),
        }),
        slow: SlowReport::new(
            &PerMetric { wal_fsync: slow, backend_commit: SlowTime::default() },
            vec!["try_to_free_pages < __alloc_pages_slowpath < generic_perform_write".to_owned()],
        ),
        device: Some(device.into()),
        neighbours: ["pod default/postgres-0", "cron.service", "pod a/b", "pod c/d"]
            .map(|owner| neighbour(owner, 0.8))
            .to_vec(),
        cpu: CpuEvidence {
            throttled_s: Some(0.5),
            throttled_periods: Some(7),
            quota_cpus: Some(2.0),
            run_delay_s: Some(0.3),
            run_s: Some(14.0),
            psi_cpu_share: Some(0.01),
            psi_io_share: Some(0.4),
            psi_memory_share: Some(0.0),
            major_faults: Some(12),
        },
        io_limits: vec!["cgroup /etcd.slice is limited to 500 writes/s on 259:0".to_owned()],
        ..quiet()
    }
}

fn report_of(members: Vec<MemberReport>) -> Report {
    Report {
        schema: SCHEMA,
        hook: "fentry",
        self_test_failure: None,
        members,
        skipped_runs: 0,
        misses: vec![("unknown_file", 4)],
    }
}

#[test]
fn the_whole_text_is_as_recorded() {
    compare("testdata/report.txt", &plain(&report_of(vec![busy(), quiet()])));
}

#[test]
fn no_line_is_too_long_for_any_name() {
    let long = "very-long-name-".repeat(20);
    let mut member = busy();
    for name in [
        &mut member.member,
        &mut member.wal_dir,
        &mut member.reason,
        &mut member.neighbours[0].owner,
        &mut member.next[0],
        &mut member.io_limits[0],
        &mut member.slow.other_frames[0],
    ] {
        name.clone_from(&long);
    }
    member.endpoint = Some(long.clone());
    member.version = Some(long.clone());
    if let Some(device) = &mut member.device {
        device.device.model = Some(long.clone());
        device.device.layers = vec![long.clone(); 3];
        device.classes[0].time.requests = u64::MAX;
    }
    let mut report = report_of(vec![member]);
    report.self_test_failure = Some(long);
    for line in plain(&report).lines() {
        assert!(line.chars().count() <= text_report::WIDTH, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn the_exit_code_determines_the_colour_of_the_verdict() {
    let colours =
        [(Verdict::Healthy, "\x1b[32m"), (Verdict::DeviceSlow, "\x1b[31m"), (Verdict::Blind, "\x1b[33m")];
    for (verdict, expected) in colours {
        let member = MemberReport { exit_code: verdict.exit_code(), ..quiet() };
        let text = render(&report_of(vec![member]));
        assert!(text.contains(expected), "{}: {text:?}", verdict.as_str());
    }
}

#[test]
fn the_schema_is_as_recorded() {
    let schema = schemars::generate::SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<Report>();
    let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n";
    compare("../docs/report.schema.json", &text);
}

#[test]
fn every_field_is_documented() {
    fn names(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    found.push(path.clone());
                    names(value, &path, found);
                }
            }
            serde_json::Value::Array(items) => {
                for item in items {
                    names(item, &format!("{path}[]"), found);
                }
            }
            _ => {}
        }
    }
    let report = serde_json::to_value(report_of(vec![busy()])).expect("a report is JSON");
    let mut found = Vec::new();
    names(&report, "", &mut found);
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/report.md"))
        .expect("the file is in the repository");
    let missing: Vec<_> = found.iter().filter(|path| !text.contains(&format!("`{path}`"))).collect();
    assert!(missing.is_empty(), "not in docs/report.md: {missing:?}");
}
