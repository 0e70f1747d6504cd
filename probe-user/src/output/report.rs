//! The report of `check` and `/api/v1/report`: one window of every member, with its verdict.

mod report_schema;
pub mod slow_report;
mod text_report;

pub use report_schema::{
    CauseReport, ClassReport, Crosscheck, DeviceReport, FigureReport, LatencySummary, MemberReport, Report,
    SCHEMA, SlowReport, SplitReport, WaitReport,
};
pub use text_report::render;

use crate::analysis::{
    assessment::{Assessment, Assessments},
    crosscheck::Observations,
    disk_metric::{DiskMetric, PerMetric, bucket_bound_s},
    latency::Latencies,
};

/// Returns the report of an assessment.
pub fn report(assessments: &Assessments<'_>) -> Report {
    Report {
        schema: SCHEMA,
        skipped_runs: assessments.skipped_runs,
        hook: assessments.hook,
        self_test_failure: assessments.self_test_failure.map(str::to_owned),
        members: assessments.members.iter().map(member).collect(),
        misses: assessments.misses.iter().copied().filter(|(_, count)| *count > 0).collect(),
    }
}

fn member(assessment: &Assessment<'_>) -> MemberReport {
    let Assessment { identity, evidence, judgement, .. } = assessment;
    MemberReport {
        member: identity.name.clone(),
        verdict: judgement.verdict.as_str(),
        reason: judgement.reason.clone(),
        since_s: assessment.since_s,
        causes: judgement.causes.iter().cloned().map(CauseReport::from).collect(),
        next: judgement.next.clone(),
        pid: identity.pid,
        version: identity.version.clone(),
        data_dir: identity.data_dir.clone(),
        wal_dir: identity.wal_dir.clone(),
        endpoint: identity.endpoint.clone(),
        window_s: evidence.window_s,
        in_flight_s: evidence.in_flight.as_ref().map_or(0.0, |oldest| oldest.age_s),
        in_flight: evidence.in_flight.clone(),
        figures: PerMetric::from_fn(|metric| figure(assessment, metric)).into_array(),
        slow: SlowReport::new(&evidence.slow, assessment.other_frames.clone()),
        split: SplitReport::new(&evidence.split, &evidence.figures),
        device: evidence.device.clone().map(DeviceReport::from),
        neighbours: evidence.neighbours.clone(),
        cpu: evidence.cpu.clone(),
        io_limits: evidence.io_limits.clone(),
        exit_code: judgement.verdict.exit_code(),
    }
}

fn figure(assessment: &Assessment<'_>, metric: DiskMetric) -> FigureReport {
    let measured = &assessment.evidence.figures[metric];
    let totals = &assessment.crosscheck[metric];
    FigureReport {
        metric: metric.as_str(),
        limit_s: measured.limit_s,
        kernel: kernel_side(measured.kernel),
        etcd: etcd_side(&assessment.etcd[metric]),
        overhead_s: measured.overhead_s,
        crosscheck: Crosscheck {
            kernel_events: totals.kernel_events,
            etcd_events: totals.etcd_events,
            difference: totals.difference,
            origin_uncertainty: totals.origin_uncertainty,
            unverified: totals.unverified,
            violations: totals.violations.iter().sum(),
        },
    }
}

fn kernel_side(latencies: &Latencies) -> LatencySummary {
    let count = latencies.count();
    LatencySummary {
        count,
        mean_s: (count > 0).then(|| latencies.sum_seconds() / count as f64),
        p50_s: latencies.quantile(0.5),
        p99_s: latencies.quantile(0.99),
        p999_s: latencies.quantile(0.999),
        max_s: latencies.max_seconds(),
    }
}

fn etcd_side(observed: &Observations) -> LatencySummary {
    LatencySummary {
        count: observed.count,
        mean_s: (observed.count > 0).then(|| observed.sum_s / observed.count as f64),
        p50_s: interpolated(observed, 0.5),
        p99_s: interpolated(observed, 0.99),
        p999_s: interpolated(observed, 0.999),
        max_s: None,
    }
}

/// Returns a quantile as Prometheus' `histogram_quantile` does, so that it equals the value on dashboards.
fn interpolated(observed: &Observations, q: f64) -> Option<f64> {
    let rank = q * observed.count as f64;
    let k = observed.at_most.iter().position(|count| *count as f64 >= rank && *count > 0)?;
    let (from_s, below) = if k == 0 { (0.0, 0) } else { (bucket_bound_s(k - 1), observed.at_most[k - 1]) };
    let within = (rank - below as f64) / (observed.at_most[k] - below).max(1) as f64;
    Some(from_s + (bucket_bound_s(k) - from_s) * within)
}

#[cfg(test)]
mod tests;
