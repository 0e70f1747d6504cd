//! The lines about the hooks that were tried.

use super::{
    Finding, State,
    trial::{Refusal, Trial},
};
use crate::{
    exit,
    host::{Host, Lockdown},
    kernel::Hook,
};

const GROUP: &str = "hooks";

/// Returns the hook that the daemon would take.
pub fn taken(trials: &[Trial]) -> Option<Hook> {
    trials.iter().find(|trial| trial.allowed && trial.outcome.is_ok()).map(|trial| trial.hook)
}

/// Returns a line for each kind of hook.
pub fn findings(host: &Host, trials: &[Trial]) -> Vec<Finding> {
    let taken = taken(trials);
    trials
        .iter()
        .map(|trial| match &trial.outcome {
            Ok(()) => works(trial, taken),
            Err(refusal) => refused(host, trial, refusal, taken),
        })
        .collect()
}

fn works(trial: &Trial, taken: Option<Hook>) -> Finding {
    let aside = match (trial.allowed, taken) {
        (_, Some(taken)) if taken == trial.hook => "; this one is taken",
        (false, _) => "; --hook forbids it",
        _ => "",
    };
    let detail = format!("attached, passed the self-test, detached{aside}");
    Finding::new(GROUP, trial.hook.as_str(), State::Ok, detail)
}

fn refused(host: &Host, trial: &Trial, refusal: &Refusal, taken: Option<Hook>) -> Finding {
    let state = if taken.is_some() || !trial.allowed { State::Note } else { State::Failed };
    let finding = Finding::new(GROUP, trial.hook.as_str(), state, &refusal.sentence);
    match taken {
        Some(Hook::Tracepoint) => finding.advice(
            "nothing: tracepoint does the same, and adds some 40 ns to every system call of this machine",
        ),
        Some(Hook::Fentry) => finding.advice("nothing: fentry does the same for less"),
        // Under lockdown a program that reads the kernel's memory is no valid program: EINVAL, not EPERM.
        None if refusal.exit_code == exit::NO_PRIVILEGE || host.lockdown == Lockdown::Confidentiality => {
            finding.advice(host.why_refused(trial.hook == Hook::Tracepoint))
        }
        None => finding.advice("see the lines of the kernel and of the privileges"),
    }
}
