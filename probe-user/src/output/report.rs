//! What `check` prints and `/api/v1/report` serves: one window of every member, with its verdict.

mod evidence;
mod measured;
mod report_schema;
pub mod slow_report;
mod text_report;

use tracing::{info, warn};

pub use report_schema::{
    CauseReport, ClassReport, Crosscheck, DeviceReport, FigureReport, MemberReport, Report, SCHEMA, Side,
    SlowReport, SplitReport, Wait,
};
pub use text_report::render;

use evidence::{evidence, other_frames, overhead_s};

use crate::{
    analysis::{
        crosscheck::Observations,
        latency::Latencies,
        verdict::{Judgement, judge},
    },
    command::config::Options,
    monitor::{LastScrape, Metric, Monitor, Tracked},
};

/// Reports on every member.
pub fn report(monitor: &Monitor, options: &Options) -> Report {
    let skipped_runs = monitor.kernel().skipped_runs();
    let skipped = ("program_skipped", skipped_runs);
    let misses = monitor.kernel().misses().map(|(miss, count)| (miss.as_str(), count));
    Report {
        schema: SCHEMA,
        skipped_runs,
        hook: monitor.kernel().hook().as_str(),
        self_test_failure: monitor.blindness().map(str::to_owned),
        members: monitor.members().map(|tracked| member(monitor, tracked, options, skipped_runs)).collect(),
        misses: misses.into_iter().chain([skipped]).filter(|(_, count)| *count > 0).collect(),
    }
}

/// Notes the verdict of every member, so that it can be told since when it holds, and logs those that changed.
pub fn note_verdicts(monitor: &mut Monitor, options: &Options) {
    let skipped_runs = monitor.kernel().skipped_runs();
    let judged: Vec<Judgement> =
        monitor.members().map(|tracked| judgement(monitor, tracked, options, skipped_runs)).collect();
    for (tracked, Judgement { verdict, reason, .. }) in monitor.members_mut().zip(judged) {
        let is_news = tracked.note_verdict(verdict).is_some();
        if is_news && verdict.exit_code() == 1 {
            warn!(member = tracked.label(), verdict = verdict.as_str(), "{reason}");
        } else if is_news {
            info!(member = tracked.label(), verdict = verdict.as_str(), "{reason}");
        }
    }
}

/// Judges a member by its window.
pub fn judgement(monitor: &Monitor, tracked: &Tracked, options: &Options, skipped_runs: u64) -> Judgement {
    judge(&evidence(monitor, tracked, options, skipped_runs))
}

fn member(monitor: &Monitor, tracked: &Tracked, options: &Options, skipped_runs: u64) -> MemberReport {
    let evidence = evidence(monitor, tracked, options, skipped_runs);
    let Judgement { verdict, reason, causes, next } = judge(&evidence);
    let version = match &tracked.last_scrape {
        LastScrape::Done(scrape) => scrape.version.clone(),
        _ => None,
    };
    let member = tracked.member();
    MemberReport {
        member: tracked.label().to_owned(),
        verdict: verdict.as_str(),
        reason,
        since_s: tracked.held_for_s(verdict),
        causes: causes.into_iter().map(CauseReport::from).collect(),
        next,
        pid: tracked.id().map(|id| id.pid),
        version,
        data_dir: member.data_dir.display().to_string(),
        wal_dir: member.wal_dir.display().to_string(),
        endpoint: member.endpoints.first().map(ToString::to_string),
        window_s: evidence.window_s,
        in_flight_s: evidence.in_flight.as_ref().map_or(0.0, |oldest| oldest.age_s),
        in_flight: evidence.in_flight,
        figures: Metric::ALL.map(|metric| figure(tracked, metric, options)),
        slow: SlowReport::new(&evidence.slow, other_frames(monitor, tracked)),
        split: SplitReport::new(&evidence.split, &evidence.figures),
        device: evidence.device.map(DeviceReport::from),
        neighbours: evidence.neighbours,
        cpu: evidence.cpu,
        io_limits: evidence.io_limits,
        exit_code: verdict.exit_code(),
    }
}

fn figure(tracked: &Tracked, metric: Metric, options: &Options) -> FigureReport {
    let ledger = tracked.ledger(metric);
    let violations =
        crate::analysis::crosscheck::Invariant::ALL.map(|invariant| ledger.violations(invariant));
    FigureReport {
        metric: metric.as_str(),
        limit_s: limit_s(metric, options),
        kernel: kernel_side(tracked.window.kernel(metric as usize)),
        etcd: etcd_side(&tracked.window.etcd(metric as usize)),
        overhead_s: overhead_s(tracked, metric),
        crosscheck: Crosscheck {
            kernel_events: ledger.kernel_events(),
            etcd_events: ledger.etcd_events(),
            difference: ledger.difference(),
            origin_uncertainty: ledger.uncertainty(),
            unverified: ledger.unverified(),
            violations: violations.iter().sum(),
        },
    }
}

fn kernel_side(latencies: &Latencies) -> Side {
    let count = latencies.count();
    Side {
        count,
        mean_s: (count > 0).then(|| latencies.sum_seconds() / count as f64),
        p50_s: latencies.quantile(0.5),
        p99_s: latencies.quantile(0.99),
        p999_s: latencies.quantile(0.999),
        max_s: latencies.max_seconds(),
    }
}

fn etcd_side(seen: &Observations) -> Side {
    Side {
        count: seen.count,
        mean_s: (seen.count > 0).then(|| seen.sum_s / seen.count as f64),
        p50_s: interpolated(seen, 0.5),
        p99_s: interpolated(seen, 0.99),
        p999_s: interpolated(seen, 0.999),
        max_s: None,
    }
}

/// Returns a quantile as Prometheus' `histogram_quantile` does, which is what operators see on their dashboards.
fn interpolated(seen: &Observations, q: f64) -> Option<f64> {
    let rank = q * seen.count as f64;
    let k = seen.at_most.iter().position(|count| *count as f64 >= rank && *count > 0)?;
    let (from_s, below) = if k == 0 { (0.0, 0) } else { (bound_s(k - 1), seen.at_most[k - 1]) };
    let within = (rank - below as f64) / (seen.at_most[k] - below).max(1) as f64;
    Some(from_s + (bound_s(k) - from_s) * within)
}

/// Returns the bound of etcd's bucket `k`: 1 ms × 2^k.
fn bound_s(k: usize) -> f64 {
    (1_u64 << k) as f64 / 1000.0
}

fn limit_s(metric: Metric, options: &Options) -> f64 {
    match metric {
        Metric::WalFsync => options.wal_fsync_limit.as_secs_f64(),
        Metric::BackendCommit => options.backend_commit_limit.as_secs_f64(),
    }
}

fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::WalFsync => "WAL fsync",
        Metric::BackendCommit => "backend commit",
    }
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn seen(latencies_ms: &[u64]) -> Observations {
        let at_most = std::array::from_fn(|k| {
            latencies_ms.iter().filter(|latency_ms| **latency_ms <= 1 << k).count() as u64
        });
        Observations { count: latencies_ms.len() as u64, sum_s: 0.0, at_most }
    }

    #[test]
    fn etcds_quantiles_are_those_of_its_dashboards() {
        let half = [vec![1; 50], vec![4; 50]].concat();
        assert_eq!(interpolated(&seen(&half), 0.5), Some(0.001), "the first bucket holds half");
        assert_eq!(
            interpolated(&seen(&half), 0.75),
            Some(0.003),
            "half way through the bucket from 2 to 4 ms"
        );
        assert_eq!(interpolated(&seen(&[]), 0.5), None, "no events, no quantile");
    }
}
