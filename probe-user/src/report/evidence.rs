//! Gathers what a verdict rests on: the only place where the monitor's state becomes [`Evidence`].

use probe_ebpf::series::OPERATIONS;

use super::{STALL_LIMIT_S, limit_s, name};
use crate::{
    config::Options,
    crosscheck::Observations,
    latency::Latencies,
    monitor::{LastScrape, Metric, Monitor, Tracked},
    verdict::{CpuEvidence, Evidence, Figure, InFlightNow, Scraped, SlowTime, Split},
};

/// Gathers the evidence of a member; `kernel` are its figures in the window, `skipped_runs` is read once for all members, for it
/// takes a file each.
pub fn evidence<'a>(
    monitor: &'a Monitor,
    tracked: &Tracked,
    options: &Options,
    skipped_runs: u64,
    kernel: &'a [Latencies; 2],
) -> Evidence<'a> {
    let settings = &tracked.member().settings;
    Evidence {
        blindness: monitor.blindness(),
        scraped: scraped(tracked),
        fsync_disabled: settings.unsafe_no_fsync,
        in_flight: in_flight(monitor, tracked),
        stall_limit_s: STALL_LIMIT_S,
        heartbeat_s: settings.heartbeat_interval_ms as f64 / 1e3,
        election_s: settings.election_timeout_ms as f64 / 1e3,
        skipped_runs,
        window_s: tracked.window.seconds(),
        figures: Metric::ALL.map(|metric| figure(tracked, metric, options, &kernel[metric as usize])),
        slow: [SlowTime::default(), SlowTime::default()],
        split: [Split::default(); 2],
        device: None,
        neighbours: Vec::new(),
        cpu: CpuEvidence::default(),
        io_limits: Vec::new(),
    }
}

fn figure<'a>(tracked: &Tracked, metric: Metric, options: &Options, kernel: &'a Latencies) -> Figure<'a> {
    let etcd = tracked.window.etcd(metric as usize);
    let overhead_s = overhead_s(tracked, metric);
    Figure {
        name: name(metric),
        limit_s: limit_s(metric, options),
        kernel,
        etcd_count: etcd.count,
        etcd_p99_above_s: p99_above_s(&etcd),
        overhead_s,
        overhead_total_s: overhead_s.map(|mean_s| mean_s * etcd.count as f64),
        difference: tracked.ledger(metric).difference(),
    }
}

/// Returns the oldest operation in flight.
fn in_flight(monitor: &Monitor, tracked: &Tracked) -> Option<InFlightNow> {
    let operations = OPERATIONS.into_iter().zip(tracked.in_flight_s(monitor.kernel()));
    let oldest = operations.max_by(|(_, a), (_, b)| a.total_cmp(b));
    let ((role, op), age_s) = oldest?;
    (age_s > 0.0).then(|| InFlightNow { age_s, file: role.as_str(), op: op.as_str(), waits_for: None })
}

/// Returns the mean time by which etcd's figure exceeds the kernel's in the window.
pub fn overhead_s(tracked: &Tracked, metric: Metric) -> Option<f64> {
    let (first, last) = tracked.window.rounds(metric as usize)?;
    tracked.ledger(metric).current()?.estimate_overhead(first, last)
}

/// Returns for how long the present verdict has held, in seconds; none if nobody keeps account of it.
pub fn since_s(_: &Tracked) -> Option<f64> {
    None
}

/// Returns where slow operations were blocked for a cause without a name of its own, the longest first.
pub fn other_frames(_: &Tracked) -> Vec<String> {
    Vec::new()
}

fn scraped(tracked: &Tracked) -> Scraped {
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
    Some(super::bound_s(k))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_below_etcds_p99_is_certain() {
        let cases = [
            (vec![1; 100], None, "all within the first bucket"),
            ([vec![1; 98], vec![20; 2]].concat(), Some(0.016), "two of a hundred are above 16 ms"),
            ([vec![1; 99], vec![20; 1]].concat(), None, "one of a hundred is not above p99"),
        ];
        for (latencies_ms, expected, why) in cases {
            assert_eq!(p99_above_s(&crate::report::tests::seen(&latencies_ms)), expected, "{why}");
        }
    }
}
