//! Gathers what a verdict rests on: the only place where the monitor's state becomes [`Evidence`].

use std::collections::BTreeMap;

use probe_ebpf::series::OPERATIONS;

use super::{LastScrape, MemberState, Monitor, device_evidence};
use crate::analysis::{
    causes::Cause,
    crosscheck::Observations,
    disk_metric::{DiskMetric, PerMetric, bucket_bound_s},
    verdict::{Evidence, Figure, InFlightNow, Scraped, cause_in_words},
};

/// How many places without a name are told.
const OTHER_FRAMES: usize = 3;

/// Gathers the evidence of a member; `kernel` are its figures in the window, `skipped_runs` is read once for all members, for it
/// takes a file each.
pub fn evidence<'a>(monitor: &'a Monitor, tracked: &'a MemberState, skipped_runs: u64) -> Evidence<'a> {
    let settings = &tracked.member().settings;
    let thresholds = &monitor.settings.thresholds;
    let election_s = settings.election_timeout_ms as f64 / 1e3;
    let slower = slower(tracked);
    let (device, neighbours) = device_evidence::device(monitor, tracked, slower).unzip();
    Evidence {
        self_test_failure: monitor.self_test_failure(),
        scraped: scraped(tracked),
        fsync_disabled: settings.unsafe_no_fsync,
        in_flight: in_flight(monitor, tracked),
        stall_limit_s: thresholds.stall_limit_s.unwrap_or(election_s),
        heartbeat_s: settings.heartbeat_interval_ms as f64 / 1e3,
        election_s,
        skipped_runs,
        window_s: tracked.window.seconds(),
        figures: PerMetric::from_fn(|metric| figure(tracked, metric, thresholds.limit_s[metric])),
        slow: PerMetric::from_fn(|metric| {
            device_evidence::slow(&tracked.window.lost(metric), thresholds.exact_causes)
        }),
        split: PerMetric::from_fn(|metric| {
            device_evidence::split(&tracked.window.lost(metric), monitor.kernel().keeps_accounts())
        }),
        device,
        neighbours: neighbours.unwrap_or_default(),
        cpu: device_evidence::cpu(tracked),
        io_limits: device_evidence::io_limits(monitor, tracked, slower),
    }
}

fn figure<'a>(tracked: &'a MemberState, metric: DiskMetric, limit_s: f64) -> Figure<'a> {
    let etcd = tracked.window.etcd(metric);
    let overhead_s = overhead_s(tracked, metric);
    Figure {
        name: metric.title(),
        limit_s,
        kernel: tracked.window.kernel(metric),
        etcd_count: etcd.count,
        etcd_p99_above_s: p99_above_s(&etcd),
        overhead_s,
        overhead_total_s: overhead_s.map(|mean_s| mean_s * etcd.count as f64),
        difference: tracked.ledger(metric).difference(),
    }
}

/// Returns the figure that lost more time to slow operations: whose device is to be looked at.
fn slower(tracked: &MemberState) -> DiskMetric {
    let lost_ns = |metric: DiskMetric| tracked.window.lost(metric).time.slow.sum_ns;
    if lost_ns(DiskMetric::BackendCommit) > lost_ns(DiskMetric::WalFsync) {
        DiskMetric::BackendCommit
    } else {
        DiskMetric::WalFsync
    }
}

/// Returns the oldest operation in flight.
fn in_flight(monitor: &Monitor, tracked: &MemberState) -> Option<InFlightNow> {
    let operations = OPERATIONS.into_iter().zip(tracked.in_flight_s(monitor.kernel()));
    let oldest = operations.max_by(|(_, a), (_, b)| a.total_cmp(b));
    let ((role, op), age_s) = oldest?;
    let waiting = tracked.process().map(|process| monitor.waiting(process.target)).unwrap_or_default();
    let oldest = waiting
        .into_iter()
        .filter(|waiting| OPERATIONS.get(waiting.series as usize) == Some(&(role, op)))
        .min_by_key(|w| w.started_ns);
    let waits_for = oldest.map(|waiting| format!("{} ({})", cause_in_words(waiting.cause), waiting.frames));
    (age_s > 0.0).then(|| InFlightNow { age_s, file: role.as_str(), op: op.as_str(), waits_for })
}

/// Returns the mean time by which etcd's figure exceeds the kernel's in the window.
pub fn overhead_s(tracked: &MemberState, metric: DiskMetric) -> Option<f64> {
    let (first, last) = tracked.window.rounds(metric)?;
    tracked.ledger(metric).current()?.estimate_overhead(first, last)
}

fn scraped(tracked: &MemberState) -> Scraped {
    match &tracked.last_scrape {
        LastScrape::NotYet => Scraped::NotYet,
        LastScrape::Done(_) => Scraped::Yes,
        LastScrape::OtherProcess => Scraped::OtherProcess,
        LastScrape::Failed { error, .. } => Scraped::Failed(error.clone()),
    }
}

/// Returns the bound that etcd's p99 is known to exceed, if there is one.
fn p99_above_s(seen: &Observations) -> Option<f64> {
    let rank = 0.99 * seen.count as f64;
    let k = seen.at_most.iter().rposition(|count| (*count as f64) < rank)?;
    Some(bucket_bound_s(k))
}

/// Returns where slow operations of the window were blocked for a cause without a name of its own, the longest first.
pub fn other_frames(monitor: &Monitor, tracked: &MemberState) -> Vec<String> {
    let begin_ns = tracked.window.ends().map_or(0, |(first, _)| first.at_ns);
    let mut places: BTreeMap<&str, u64> = BTreeMap::new();
    let of_member = monitor.slow_log().since(0).filter(|logged| logged.member == tracked.label());
    for logged in of_member.filter(|logged| logged.operation.record.started_ns >= begin_ns) {
        for ((cause, frames), ns) in &logged.operation.frames {
            if *cause == Cause::Other && !frames.is_empty() {
                *places.entry(frames).or_default() += ns;
            }
        }
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    places.into_iter().take(OTHER_FRAMES).map(|(frames, _)| frames.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(latencies_ms: &[u64]) -> Observations {
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
            assert_eq!(p99_above_s(&seen(&latencies_ms)), expected, "{why}");
        }
    }
}
