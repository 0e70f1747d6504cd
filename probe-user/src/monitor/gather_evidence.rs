//! Gathers the evidence of a verdict: the only module that converts the monitor's state to [`Evidence`].

use std::collections::BTreeMap;

use probe_ebpf::series::OPERATIONS;

use super::{LastScrape, MemberState, Monitor, device_evidence};
use crate::analysis::{
    causes::Cause,
    crosscheck::Observations,
    disk_metric::{DiskMetric, PerMetric, bucket_bound_s},
    verdict::{Evidence, InFlightNow, MetricEvidence, Scraped, cause_name},
};

/// How many stack frames without a named cause are reported.
const OTHER_FRAMES_MAX: usize = 3;

/// Gathers the evidence of a member. `skipped_runs` is an argument because reading it opens a file per
/// program.
pub fn evidence<'a>(monitor: &'a Monitor, state: &'a MemberState, skipped_runs: u64) -> Evidence<'a> {
    let settings = &state.member().settings;
    let thresholds = &monitor.settings.thresholds;
    let election_s = settings.election_timeout_ms as f64 / 1e3;
    let slower = slower(state);
    let (device, neighbours) = device_evidence::device(monitor, state, slower).unzip();
    Evidence {
        self_test_failure: monitor.self_test_failure(),
        scraped: scraped(state),
        fsync_disabled: settings.unsafe_no_fsync,
        in_flight: in_flight(monitor, state),
        stall_limit_s: thresholds.stall_limit_s.unwrap_or(election_s),
        heartbeat_s: settings.heartbeat_interval_ms as f64 / 1e3,
        election_s,
        skipped_runs,
        window_s: state.window.seconds(),
        figures: PerMetric::from_fn(|metric| metric_evidence(state, metric, thresholds.limit_s[metric])),
        slow: PerMetric::from_fn(|metric| {
            device_evidence::slow(&state.window.wait_totals(metric), thresholds.exact_causes)
        }),
        split: PerMetric::from_fn(|metric| {
            device_evidence::split(&state.window.wait_totals(metric), monitor.kernel().has_sched_stats())
        }),
        device,
        neighbours: neighbours.unwrap_or_default(),
        cpu: device_evidence::cpu(state),
        io_limits: device_evidence::io_limits(monitor, state, slower),
    }
}

fn metric_evidence(state: &MemberState, metric: DiskMetric, limit_s: f64) -> MetricEvidence<'_> {
    let etcd = state.window.etcd(metric);
    let overhead_s = overhead_s(state, metric);
    MetricEvidence {
        name: metric.title(),
        limit_s,
        kernel: state.window.kernel(metric),
        etcd_count: etcd.count,
        etcd_p99_above_s: p99_above_s(&etcd),
        overhead_s,
        overhead_total_s: overhead_s.map(|mean_s| mean_s * etcd.count as f64),
        difference: state.ledger(metric).difference(),
    }
}

/// Returns the disk metric that lost more time to slow operations; the evidence covers its device.
fn slower(state: &MemberState) -> DiskMetric {
    let slow_ns = |metric: DiskMetric| state.window.wait_totals(metric).time.slow.sum_ns;
    if slow_ns(DiskMetric::BackendCommit) > slow_ns(DiskMetric::WalFsync) {
        DiskMetric::BackendCommit
    } else {
        DiskMetric::WalFsync
    }
}

/// Returns the oldest operation in flight.
fn in_flight(monitor: &Monitor, state: &MemberState) -> Option<InFlightNow> {
    let operations = OPERATIONS.into_iter().zip(state.in_flight_s(monitor.kernel()));
    let oldest = operations.max_by(|(_, a), (_, b)| a.total_cmp(b));
    let ((role, op), age_s) = oldest?;
    let waiting = state.process().map(|process| monitor.waiting(process.target)).unwrap_or_default();
    let oldest = waiting
        .into_iter()
        .filter(|waiting| OPERATIONS.get(waiting.series as usize) == Some(&(role, op)))
        .min_by_key(|w| w.started_ns);
    let waits_for = oldest.map(|waiting| format!("{} ({})", cause_name(waiting.cause), waiting.frames));
    (age_s > 0.0).then(|| InFlightNow { age_s, file: role.as_str(), op: op.as_str(), waits_for })
}

/// Returns the mean time by which etcd's measurement exceeds the kernel's in the window.
pub fn overhead_s(state: &MemberState, metric: DiskMetric) -> Option<f64> {
    let (first, last) = state.window.rounds(metric)?;
    state.ledger(metric).current()?.estimate_overhead(first, last)
}

fn scraped(state: &MemberState) -> Scraped {
    match &state.last_scrape {
        LastScrape::NotYet => Scraped::NotYet,
        LastScrape::Done(_) => Scraped::Yes,
        LastScrape::OtherProcess => Scraped::OtherProcess,
        LastScrape::Failed { error, .. } => Scraped::Failed(error.clone()),
    }
}

/// Returns the bucket bound that etcd's p99 certainly exceeds, if there is one.
fn p99_above_s(etcd: &Observations) -> Option<f64> {
    let rank = 0.99 * etcd.count as f64;
    let k = etcd.at_most.iter().rposition(|count| (*count as f64) < rank)?;
    Some(bucket_bound_s(k))
}

/// Returns the stack frames in which slow operations of the window were blocked without a named cause, the
/// longest wait first.
pub fn other_frames(monitor: &Monitor, state: &MemberState) -> Vec<String> {
    let begin_ns = state.window.ends().map_or(0, |(first, _)| first.at_ns);
    let mut frames_ns: BTreeMap<&str, u64> = BTreeMap::new();
    let of_member = monitor.slow_log().since(0).filter(|logged| logged.member == state.label());
    for logged in of_member.filter(|logged| logged.operation.record.started_ns >= begin_ns) {
        for ((cause, frames), ns) in &logged.operation.frames {
            if *cause == Cause::Other && !frames.is_empty() {
                *frames_ns.entry(frames).or_default() += ns;
            }
        }
    }
    let mut frames_ns: Vec<_> = frames_ns.into_iter().collect();
    frames_ns.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    frames_ns.into_iter().take(OTHER_FRAMES_MAX).map(|(frames, _)| frames.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(latencies_ms: &[u64]) -> Observations {
        let at_most = std::array::from_fn(|k| {
            latencies_ms.iter().filter(|latency_ms| **latency_ms <= 1 << k).count() as u64
        });
        Observations { count: latencies_ms.len() as u64, sum_s: 0.0, at_most }
    }

    #[test]
    fn the_bound_below_etcds_p99_is_certain() {
        let cases = [
            (vec![1; 100], None, "all within the first bucket"),
            ([vec![1; 98], vec![20; 2]].concat(), Some(0.016), "two of a hundred are above 16 ms"),
            ([vec![1; 99], vec![20; 1]].concat(), None, "one of a hundred is not above p99"),
        ];
        for (latencies_ms, expected, why) in cases {
            assert_eq!(p99_above_s(&observed(&latencies_ms)), expected, "{why}");
        }
    }
}
