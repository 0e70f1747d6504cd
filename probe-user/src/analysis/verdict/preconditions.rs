//! Judgements that precede any latency: no claim is possible, or a fault exists regardless of the latencies.

use super::{EVENTS_MIN_ALIVE, Evidence, InFlightNow, MetricEvidence, Scraped, Verdict, format::time};

/// Two counts of a window that differ by more events and by a larger share than these belong to different
/// processes. The window's scrapes start and end within a second of the kernel's readings; on a member that
/// rarely syncs that second contains a few events.
const MISMATCH_EVENTS_MIN: u64 = 20;
const MISMATCH_SHARE_MIN: f64 = 0.01;

/// Returns the verdict and reason of the first precondition that applies.
pub fn judge(evidence: &Evidence) -> Option<(Verdict, String)> {
    if let Some(failure) = evidence.self_test_failure {
        // Must come first: an operation whose end was missed would appear to be in flight for ever.
        return Some((Verdict::Blind, failure.to_owned()));
    }
    stalled(evidence)
        .or_else(|| unscraped(evidence))
        .or_else(|| evidence.figures.iter().find_map(|figure| mismatch(figure, evidence.skipped_runs)))
        .or_else(|| evidence.figures.iter().find_map(|figure| unseen(figure, evidence.skipped_runs)))
        .or_else(|| {
            let reason = "etcd runs with --unsafe-no-fsync: nothing it writes is durable".to_owned();
            evidence.fsync_disabled.then_some((Verdict::FsyncDisabled, reason))
        })
}

fn stalled(evidence: &Evidence) -> Option<(Verdict, String)> {
    let InFlightNow { age_s, file, op, waits_for } = evidence.in_flight.as_ref()?;
    let waits = waits_for.as_ref().map_or_else(String::new, |cause| format!(", waiting for {cause}"));
    let (age, limit) = (time(*age_s), time(evidence.stall_limit_s));
    let reason = format!("{op} of {file} has been in flight for {age}, limit {limit}{waits}");
    (*age_s > evidence.stall_limit_s).then_some((Verdict::Stalled, reason))
}

fn unscraped(evidence: &Evidence) -> Option<(Verdict, String)> {
    let blind = |reason: String| Some((Verdict::Blind, format!("cannot cross-check: {reason}")));
    match &evidence.scraped {
        Scraped::Yes => None,
        Scraped::Failed(reason) => blind(reason.clone()),
        Scraped::NotYet => blind("etcd has not been scraped yet".to_owned()),
        Scraped::OtherProcess => {
            let reason = "the endpoint reports another process start or CPU time than the traced process has";
            Some((Verdict::EndpointMismatch, reason.to_owned()))
        }
    }
}

/// The counts cannot belong to one process. The self-test passed, so the probe does not miss events.
///
/// Applies only if the reconciliation also found a difference: if scrapes failed in between, etcd's window is
/// shorter than the kernel's. [`unseen`] handles a kernel count of 0, since the traced process may then be
/// the wrong one.
fn mismatch(figure: &MetricEvidence, skipped_runs: u64) -> Option<(Verdict, String)> {
    let (kernel, etcd) = (figure.kernel.count(), figure.etcd_count);
    let apart = kernel.abs_diff(etcd);
    let is_other = kernel > 0
        && figure.difference.unsigned_abs() > skipped_runs
        && apart > MISMATCH_EVENTS_MIN
        && apart as f64 > kernel.max(etcd) as f64 * MISMATCH_SHARE_MIN;
    let reason = format!(
        "{}: the endpoint counted {etcd} events in the window and the kernel {kernel}; they are different processes",
        figure.name
    );
    is_other.then_some((Verdict::EndpointMismatch, reason))
}

/// The probe lost or duplicated events without an explanation from the kernel.
fn unseen(figure: &MetricEvidence, skipped_runs: u64) -> Option<(Verdict, String)> {
    let difference = figure.difference.unsigned_abs();
    let reason = if difference > skipped_runs {
        format!("{}: {difference} events counted by one side only", figure.name)
    } else if figure.kernel.count() == 0 && figure.etcd_count >= EVENTS_MIN_ALIVE {
        format!("{}: etcd counted {} events, the kernel none", figure.name, figure.etcd_count)
    } else {
        return None;
    };
    Some((Verdict::Blind, reason))
}
