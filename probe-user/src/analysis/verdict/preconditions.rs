//! What is judged before any figure: that nothing can be claimed, or that something is wrong whatever the figures say.

use super::{CLEARLY_ALIVE, Evidence, Figure, InFlightNow, Scraped, Verdict, format::time};

/// Two counts of a window that differ by more events and by a larger part than these are not of the same process: the scrapes of a window
/// begin and end within a second of the kernel's, and on a member that syncs seldom that is a few events.
const OTHER_EVENTS: u64 = 20;
const OTHER_SHARE: f64 = 0.01;

/// Returns what is certain, if anything is.
pub fn judge(evidence: &Evidence) -> Option<(Verdict, String)> {
    if let Some(failure) = evidence.self_test_failure {
        // First of all: an operation whose end was not seen seems to be in flight for ever.
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
            let reason =
                "what the endpoint tells of its process, start and CPU time, is not so of the traced one";
            Some((Verdict::EndpointMismatch, reason.to_owned()))
        }
    }
}

/// The counts cannot be those of one process: the self-test passes, so it is not the probe that fails to see.
///
/// Only where the reconciliation found a difference, too: with scrapes that failed in between, etcd's window is shorter than the kernel's.
/// A kernel that counted nothing at all is left to [`unseen`], for then it may be the wrong process that is traced.
fn mismatch(figure: &Figure, skipped_runs: u64) -> Option<(Verdict, String)> {
    let (kernel, etcd) = (figure.kernel.count(), figure.etcd_count);
    let apart = kernel.abs_diff(etcd);
    let is_other = kernel > 0
        && figure.difference.unsigned_abs() > skipped_runs
        && apart > OTHER_EVENTS
        && apart as f64 > kernel.max(etcd) as f64 * OTHER_SHARE;
    let reason = format!(
        "{}: the endpoint counted {etcd} events in the window and the kernel {kernel}, which cannot be the same process",
        figure.name
    );
    is_other.then_some((Verdict::EndpointMismatch, reason))
}

/// The probe lost or doubled events, and the kernel does not say why.
fn unseen(figure: &Figure, skipped_runs: u64) -> Option<(Verdict, String)> {
    let difference = figure.difference.unsigned_abs();
    let reason = if difference > skipped_runs {
        format!("{}: {difference} events counted by one side only", figure.name)
    } else if figure.kernel.count() == 0 && figure.etcd_count >= CLEARLY_ALIVE {
        format!("{}: etcd counted {} events, the kernel none", figure.name, figure.etcd_count)
    } else {
        return None;
    };
    Some((Verdict::Blind, reason))
}
