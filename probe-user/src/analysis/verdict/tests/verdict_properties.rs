//! Properties of the verdict for any evidence, however unusual.

use std::cell::Cell;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use super::super::*;
use crate::analysis::{causes::PerCause, disk_metric::PerMetric, latency::Latencies};

const CASES: u32 = 512;

/// The minimum number of cases with two causes or more, so that the properties do not hold trivially. 71
/// cases have them, five standard deviations more.
const SEVERAL_CAUSES_MIN: u32 = CASES / 16;

/// The numbers of one case; [`evidence`] gives each of them its meaning.
#[derive(Clone, Debug)]
struct RandomNumbers {
    latencies_ns: Vec<u64>,
    seconds: Vec<f64>,
    counts: Vec<u64>,
    flags: u32,
}

fn odd() -> impl Strategy<Value = RandomNumbers> {
    let latencies_ns = vec(prop_oneof![0..2_000_000_u64, 0..200_000_000_u64, 0..u64::MAX / 1024], 0..300);
    // Wrong clocks and differences yield values below 0. Most values have one scale, so that several of them
    // can be causes.
    let seconds = vec(prop_oneof![1 => Just(0.0), 1 => -1.0..1.0_f64, 4 => 0.0..1e3_f64], 64);
    let counts = vec(prop_oneof![Just(0_u64), 0..50_u64, 0..1_000_000_u64], 64);
    (latencies_ns, seconds, counts, any::<u32>()).prop_map(|(latencies_ns, seconds, counts, flags)| {
        RandomNumbers { latencies_ns, seconds, counts, flags }
    })
}

fn latencies(odd: &RandomNumbers) -> Latencies {
    let mut all = Latencies::default();
    odd.latencies_ns.iter().for_each(|latency_ns| all.record(*latency_ns));
    all
}

fn evidence<'a>(odd: &RandomNumbers, kernel: &'a Latencies) -> Evidence<'a> {
    let mut seconds = odd.seconds.iter().copied().cycle();
    let mut s = move || seconds.next().unwrap_or_default();
    let mut counts = odd.counts.iter().copied().cycle();
    let mut n = move || counts.next().unwrap_or_default();
    let flag = |bit: u32| odd.flags & (1 << bit) != 0;
    let figure = |k: usize, s: &mut dyn FnMut() -> f64, n: &mut dyn FnMut() -> u64| MetricEvidence {
        name: ["WAL fsync", "backend commit"][k],
        // Small enough for many latencies to exceed it.
        limit_s: s().min(0.02),
        kernel,
        etcd_count: n(),
        etcd_p99_above_s: flag(0).then(&mut *s),
        overhead_s: flag(1).then(&mut *s),
        overhead_total_s: flag(2).then(&mut *s),
        difference: i64::from(flag(3) && flag(24) && flag(25)),
    };
    let figures =
        PerMetric { wal_fsync: figure(0, &mut s, &mut n), backend_commit: figure(1, &mut s, &mut n) };
    let mut slow = || SlowTime {
        operations: if flag(4) { n() } else { 0 },
        total_s: s(),
        on_cpu_s: s(),
        run_queue_s: s(),
        waits_s: PerCause::from_fn(|_| if flag(5) { s() } else { 0.0 }),
        sampled_s: None,
        device_idle_s: s(),
        device_busy_s: s(),
    };
    let [wal_fsync, backend_commit] = [slow(), slow()];
    let slow = PerMetric { wal_fsync, backend_commit };
    let part = |value: f64, bit: u32| flag(bit).then_some(value);
    let [wal_fsync, backend_commit] = [0, 1].map(|k| TimeSplit {
        total_s: odd.seconds[k],
        on_cpu_s: part(odd.seconds[k + 2], 6),
        run_queue_s: part(odd.seconds[k + 4], 7),
    });
    let split = PerMetric { wal_fsync, backend_commit };
    let class = |k: usize| ClassTime {
        requests: odd.counts[k],
        total_s: odd.seconds[k],
        queue_s: odd.seconds[k + 1],
        device_s: odd.seconds[k + 2],
        own_requests: odd.counts[k + 1],
        kernel_requests: odd.counts[k + 2],
        other_requests: odd.counts[k + 3],
    };
    let device = DeviceEvidence {
        name: "vda".to_owned(),
        cloud: flag(8).then_some("AWS"),
        classes: [class(10), class(20), class(30), class(40)],
        ..DeviceEvidence::default()
    };
    let neighbour = Neighbour { share: odd.seconds[9], syncs: odd.counts[9], ..Neighbour::default() };
    Evidence {
        self_test_failure: flag(9).then_some("no event arrived").filter(|_| flag(20)),
        scraped: if flag(10) || flag(21) || flag(27) { Scraped::Yes } else { Scraped::NotYet },
        fsync_disabled: flag(11) && flag(22) && flag(26),
        in_flight: (flag(12) && flag(23)).then(|| InFlightNow {
            age_s: odd.seconds[11],
            file: "wal",
            op: "fdatasync",
            waits_for: None,
        }),
        stall_limit_s: 1.0,
        heartbeat_s: odd.seconds[12],
        election_s: odd.seconds[13],
        skipped_runs: odd.counts[14],
        window_s: odd.seconds[15],
        figures,
        slow,
        split,
        device: flag(13).then_some(device),
        neighbours: if flag(14) { vec![neighbour] } else { Vec::new() },
        cpu: CpuEvidence {
            throttled_s: part(odd.seconds[16], 15),
            throttled_periods: flag(16).then_some(odd.counts[16]),
            quota_cpus: part(odd.seconds[17], 17),
            run_delay_s: part(odd.seconds[18], 18),
            ..CpuEvidence::default()
        },
        io_limits: if flag(19) { vec!["io.max".to_owned()] } else { Vec::new() },
    }
}

#[test]
fn any_evidence_gets_an_ordered_answer() {
    let slow = Cell::new(0);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let property = |odd: RandomNumbers| {
        let kernel = latencies(&odd);
        let evidence = evidence(&odd, &kernel);
        let Judgement { verdict, reason, causes, next } = judge(&evidence);
        prop_assert!(!reason.is_empty());
        prop_assert_eq!(next.is_empty(), verdict == Verdict::Healthy);
        prop_assert!(causes.iter().all(|cause| (0.0..=1.0).contains(&cause.share)), "{:?}", causes);
        prop_assert!(causes.iter().map(|cause| cause.share).sum::<f64>() < 1.0 + 1e-9, "{:?}", causes);
        prop_assert!(causes.is_sorted_by(|a, b| a.share >= b.share), "{:?}", causes);
        prop_assert!(causes.first().is_none_or(|first| first.verdict == verdict), "{:?}", causes);
        let distinct: std::collections::BTreeSet<_> = causes.iter().map(|cause| cause.verdict).collect();
        prop_assert_eq!(distinct.len(), causes.len(), "a verdict is named once");
        slow.set(slow.get() + u32::from(causes.len() > 1));
        let unseen = evidence.self_test_failure.is_some() || evidence.scraped != Scraped::Yes;
        prop_assert!(!unseen || verdict != Verdict::Healthy, "never healthy when blind");
        prop_assert!(evidence.self_test_failure.is_none() || verdict == Verdict::Blind);
        Ok::<(), TestCaseError>(())
    };
    if let Err(error) = TestRunner::new(config).run(&odd(), property) {
        panic!("{error}");
    }
    assert!(slow.get() >= SEVERAL_CAUSES_MIN, "{} of {CASES} had two causes or more", slow.get());
}
