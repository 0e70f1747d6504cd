//! The lines about the hooks that were tried.

use super::{
    DoctorFinding, Severity,
    try_hooks::{HookAttempt, StartFailure},
};
use crate::kernel::Hook;

const GROUP: &str = "hooks";

/// Returns the hook that the daemon would use.
pub fn selected(attempts: &[HookAttempt]) -> Option<Hook> {
    attempts.iter().find(|attempt| attempt.allowed && attempt.outcome.is_ok()).map(|attempt| attempt.hook)
}

/// Returns a line for each kind of hook.
pub fn findings(attempts: &[HookAttempt]) -> Vec<DoctorFinding> {
    let selected = selected(attempts);
    attempts
        .iter()
        .map(|attempt| match &attempt.outcome {
            Ok(()) => works(attempt, selected),
            Err(failure) => refused(attempt, failure, selected),
        })
        .collect()
}

fn works(attempt: &HookAttempt, selected: Option<Hook>) -> DoctorFinding {
    let aside = match (attempt.allowed, selected) {
        (_, Some(selected)) if selected == attempt.hook => "; this hook is used",
        (false, _) => "; excluded by --hook",
        _ => "",
    };
    let detail = format!("attached, passed the self-test, detached{aside}");
    DoctorFinding::new(GROUP, attempt.hook.as_str(), Severity::Ok, detail)
}

/// The message of a failure states what is missing, if that is known.
fn refused(attempt: &HookAttempt, failure: &StartFailure, selected: Option<Hook>) -> DoctorFinding {
    let state = if selected.is_some() || !attempt.allowed { Severity::Note } else { Severity::Failed };
    let finding = DoctorFinding::new(GROUP, attempt.hook.as_str(), state, &failure.message);
    finding.advice(match selected {
        Some(Hook::Tracepoint) => {
            "nothing: tracepoint works, and adds about 40 ns to every system call of this machine"
        }
        Some(Hook::Fentry) => "nothing: fentry works, and costs less",
        None => "see the failed lines of the kernel and the privileges",
    })
}
