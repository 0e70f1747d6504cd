//! Tables of evidence and the verdict it leads to.

mod cpu_verdicts;
mod storage_verdicts;
mod verdict_properties;

use super::*;
use crate::analysis::disk_metric::PerMetric;
use crate::analysis::{causes::Cause, latency::Latencies};

/// Changes the evidence of a healthy member.
type Change = fn(&mut Evidence);
/// WAL syncs in the kernel, a change, the verdict, and why.
type Row<'a> = (&'a Latencies, Change, Verdict, &'static str);

const MS: u64 = 1_000_000;

fn latencies(each_ns: u64, count: u64) -> Latencies {
    let mut all = Latencies::default();
    (0..count).for_each(|_| all.record(each_ns));
    all
}

fn figure<'a>(name: &'static str, limit_s: f64, kernel: &'a Latencies) -> MetricEvidence<'a> {
    MetricEvidence {
        name,
        limit_s,
        kernel,
        etcd_count: kernel.count(),
        etcd_p99_above_s: None,
        overhead_s: None,
        overhead_total_s: None,
        difference: 0,
    }
}

/// Returns the evidence of a member that is healthy except for its WAL syncs.
fn evidence<'a>(wal: &'a Latencies, backend: &'a Latencies) -> Evidence<'a> {
    Evidence {
        self_test_failure: None,
        scraped: Scraped::Yes,
        fsync_disabled: false,
        in_flight: None,
        stall_limit_s: 1.0,
        heartbeat_s: 0.1,
        election_s: 1.0,
        skipped_runs: 0,
        window_s: 60.0,
        figures: PerMetric {
            wal_fsync: figure("WAL fsync", 0.010, wal),
            backend_commit: figure("backend commit", 0.025, backend),
        },
        slow: PerMetric::default(),
        split: PerMetric::default(),
        device: None,
        neighbours: Vec::new(),
        cpu: CpuEvidence::default(),
        io_limits: Vec::new(),
    }
}

fn check(rows: &[Row]) {
    let fast = latencies(MS, 500);
    for (wal, change, expected, why) in rows {
        let mut evidence = evidence(wal, &fast);
        change(&mut evidence);
        let judgement = judge(&evidence);
        assert_eq!(judgement.verdict, *expected, "{why}: {}", judgement.reason);
    }
}

/// Blocks each of the WAL's 500 slow syncs for 40 ms: 20 s, of these the given seconds by cause.
fn blocked(evidence: &mut Evidence, waits: &[(Cause, f64)]) {
    let slow = &mut evidence.slow.wal_fsync;
    (slow.operations, slow.total_s) = (500, 20.0);
    for (cause, seconds) in waits {
        slow.waits_s[*cause] = *seconds;
    }
    let known_s: f64 = slow.waits_s.iter().sum();
    slow.waits_s[Cause::Unsampled] += (20.0 - known_s).max(0.0);
    slow.device_busy_s = 18.0;
}

fn idle(evidence: &mut Evidence) {
    (evidence.slow.wal_fsync.device_idle_s, evidence.slow.wal_fsync.device_busy_s) = (17.0, 1.0);
}

/// Returns a device with these mean times: 1000 writes and flushes each, half of them etcd's, the others the
/// kernel's.
fn device(write_s: f64, flush_s: f64) -> DeviceEvidence {
    let class = |mean_s: f64| ClassTime {
        requests: 1000,
        total_s: mean_s * 1000.0,
        queue_s: mean_s * 10.0,
        device_s: mean_s * 990.0,
        own_requests: 500,
        kernel_requests: 500,
        other_requests: 0,
    };
    let none = ClassTime::default();
    DeviceEvidence {
        name: "vda".to_owned(),
        classes: [none, class(write_s), class(flush_s), none],
        ..DeviceEvidence::default()
    }
}

fn neighbour(share: f64) -> Neighbour {
    Neighbour {
        owner: "pod default/backup".to_owned(),
        process: "tar".to_owned(),
        requests: 9000,
        flushes: 3,
        syncs: 40,
        bytes: 3 << 30,
        share,
        ..Neighbour::default()
    }
}

fn slow_device(evidence: &mut Evidence) {
    blocked(evidence, &[(Cause::DataWriteback, 11.0), (Cause::Flush, 7.0)]);
    evidence.device = Some(device(0.013, 0.014));
}

fn throttled(evidence: &mut Evidence) {
    evidence.cpu.quota_cpus = Some(0.2);
    (evidence.cpu.throttled_s, evidence.cpu.throttled_periods) = (Some(40.0), Some(500));
}

/// Sets 500 events in etcd with a p99 above 32 ms, longer by this mean than the kernel's.
fn overhead(evidence: &mut Evidence, mean_s: f64) {
    let figure = &mut evidence.figures.wal_fsync;
    figure.etcd_p99_above_s = Some(0.032);
    (figure.overhead_s, figure.overhead_total_s) = (Some(mean_s), Some(mean_s * 500.0));
}

#[test]
fn preconditions_come_first() {
    let fast = latencies(MS, 500);
    let slow = latencies(40 * MS, 500);
    let none = latencies(0, 0);
    check(&[
        (&fast, |_| {}, Verdict::Healthy, "fast and exact"),
        (&fast, |e| hangs(e, 2.0), Verdict::Stalled, "one hangs while the others are fast"),
        (&fast, |e| hangs(e, 0.5), Verdict::Healthy, "half a second is no stall"),
        (&slow, |e| (slow_device(e), hangs(e, 2.0)).0, Verdict::Stalled, "now comes before the window"),
        (
            &fast,
            |e| {
                e.self_test_failure = Some("no event arrived");
                hangs(e, 9.0);
            },
            Verdict::Blind,
            "without its hook an operation never ends",
        ),
        (&fast, |e| e.scraped = Scraped::Failed("refused".into()), Verdict::Blind, "not cross-checked"),
        (&fast, |e| e.scraped = Scraped::NotYet, Verdict::Blind, "not cross-checked yet"),
        (&slow, |e| e.scraped = Scraped::NotYet, Verdict::Blind, "slow, but possibly another process"),
        (&fast, |e| e.scraped = Scraped::OtherProcess, Verdict::EndpointMismatch, "another etcd's endpoint"),
        (
            &fast,
            |e| (e.figures.wal_fsync.etcd_count, e.figures.wal_fsync.difference) = (900, 400),
            Verdict::EndpointMismatch,
            "900 events are not the same as 500",
        ),
        (
            &fast,
            |e| (e.figures.wal_fsync.etcd_count, e.figures.wal_fsync.difference) = (515, 15),
            Verdict::Blind,
            "these may be the same, and some were missed",
        ),
        (
            &fast,
            |e| e.figures.wal_fsync.etcd_count = 250,
            Verdict::Healthy,
            "scrapes failed for half of the window, but the reconciliation is exact",
        ),
        (&fast, |e| e.figures.backend_commit.difference = -1, Verdict::Blind, "one event too many"),
        (
            &fast,
            |e| (e.figures.backend_commit.difference, e.skipped_runs) = (-1, 1),
            Verdict::Healthy,
            "one event is missing, and the kernel reports a skipped run",
        ),
        (
            &none,
            |e| e.figures.wal_fsync.etcd_count = 50,
            Verdict::Blind,
            "etcd syncs and the kernel counts none",
        ),
        (&fast, |e| e.fsync_disabled = true, Verdict::FsyncDisabled, "fast, because nothing is synced"),
        (&slow, |e| e.fsync_disabled = true, Verdict::FsyncDisabled, "no latency is meaningful"),
    ]);
}

#[test]
fn few_samples_are_not_enough() {
    let few = latencies(MS, 3);
    let few_slow = latencies(40 * MS, 20);
    check(&[
        (&few, |_| {}, Verdict::TooFewSamples, "three syncs have no p99"),
        (&few, |e| throttled(e), Verdict::TooFewSamples, "an exhausted quota alone makes no sync slow"),
        (
            &few,
            |e| e.figures.wal_fsync.etcd_p99_above_s = Some(0.016),
            Verdict::TooFewSamples,
            "one of three was slow in etcd",
        ),
        (&few_slow, slow_device, Verdict::DeviceSlow, "twenty slow ones suffice"),
        (
            &latencies(MS, 20),
            |e| (overhead(e, 0.050), throttled(e)).0,
            Verdict::CpuStarved,
            "twenty with a mean above the limit suffice, too",
        ),
    ]);
}

#[test]
fn two_faults_are_reported_in_the_order_of_their_time() {
    let slow = latencies(40 * MS, 500);
    let fast = latencies(MS, 500);
    let cases: [(f64, [Verdict; 2], &str); 2] = [
        (0.020, [Verdict::DeviceSlow, Verdict::CpuStarved], "20 s of the device, 10 s of the quota"),
        (0.080, [Verdict::CpuStarved, Verdict::DeviceSlow], "20 s of the device, 40 s of the quota"),
    ];
    for (overhead_s, expected, why) in cases {
        let mut evidence = evidence(&slow, &fast);
        slow_device(&mut evidence);
        throttled(&mut evidence);
        overhead(&mut evidence, overhead_s);
        let judgement = judge(&evidence);
        let named: Vec<_> = judgement.causes.iter().map(|cause| cause.verdict).collect();
        assert_eq!(named, expected, "{why}: {}", judgement.reason);
        assert_eq!(judgement.verdict, expected[0], "{why}");
        assert!(judgement.reason.contains(expected[1].as_str()), "{why}: {}", judgement.reason);
        assert!(judgement.causes[0].share > 0.6, "{why}");
    }
}

#[test]
fn a_small_cause_is_left_out() {
    let (slow, fast) = (latencies(40 * MS, 500), latencies(MS, 500));
    let mut evidence = evidence(&slow, &fast);
    slow_device(&mut evidence);
    throttled(&mut evidence);
    overhead(&mut evidence, 0.004);
    let judgement = judge(&evidence);
    assert_eq!(judgement.causes.len(), 1, "2 s of 22: {}", judgement.reason);
}

#[test]
fn reasons_give_the_numbers() {
    let mut wal = latencies(40 * MS, 490);
    (0..7).for_each(|_| wal.record(300 * MS));
    (0..3).for_each(|_| wal.record(2_000 * MS));
    let fast = latencies(MS, 500);
    let mut evidence = evidence(&wal, &fast);
    slow_device(&mut evidence);
    evidence.device.as_mut().unwrap().cloud = Some("AWS");
    let reason = judge(&evidence).reason;
    let expected = "WAL fsync p99 is 300 ms in the kernel, limit 10 ms (500 events, 10 longer than the heartbeat interval of \
                    100 ms, 3 longer than the election timeout of 1 s). 100 % of the lost time: on vda a write takes 13 ms, \
                    a flush takes 14 ms on average; a volume limit that AWS enforces outside this machine has the same \
                    effect";
    assert_eq!(reason, expected);
}

#[test]
fn every_verdict_except_healthy_has_advice() {
    let fast = latencies(MS, 500);
    let evidence = evidence(&fast, &fast);
    for verdict in Verdict::ALL {
        let next = advice::next(verdict, &evidence);
        assert_eq!(next.is_empty(), verdict == Verdict::Healthy, "{}", verdict.as_str());
    }
}

#[test]
fn exit_codes_follow_the_verdict() {
    for verdict in Verdict::ALL {
        let expected = match verdict.as_str() {
            "healthy" => 0,
            "too_few_samples" | "endpoint_mismatch" | "blind" => 2,
            _ => 1,
        };
        assert_eq!(verdict.exit_code(), expected, "{}", verdict.as_str());
    }
}

fn hangs(evidence: &mut Evidence, age_s: f64) {
    let waits_for = Some("journal".to_owned());
    evidence.in_flight = Some(InFlightNow { age_s, file: "wal", op: "fdatasync", waits_for });
}

fn others(evidence: &mut Evidence, share: f64, requests: u64) {
    slow_device(evidence);
    evidence.neighbours = vec![neighbour(share)];
    evidence.device.as_mut().unwrap().classes[Class::Write as usize].other_requests = requests;
}

fn queued(evidence: &mut Evidence) {
    let slow = &mut evidence.slow.wal_fsync;
    (slow.operations, slow.total_s, slow.run_queue_s) = (500, 20.0, 18.0);
    evidence.device = Some(device(0.001, 0.001));
}
