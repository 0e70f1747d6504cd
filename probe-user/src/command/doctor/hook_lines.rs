//! The lines about the hooks that were tried.

use super::{
    Finding, State,
    try_hooks::{Refusal, Trial},
};
use crate::kernel::Hook;

const GROUP: &str = "hooks";

/// Returns the hook that the daemon would take.
pub fn taken(trials: &[Trial]) -> Option<Hook> {
    trials.iter().find(|trial| trial.allowed && trial.outcome.is_ok()).map(|trial| trial.hook)
}

/// Returns a line for each kind of hook.
pub fn findings(trials: &[Trial]) -> Vec<Finding> {
    let taken = taken(trials);
    trials
        .iter()
        .map(|trial| match &trial.outcome {
            Ok(()) => works(trial, taken),
            Err(refusal) => refused(trial, refusal, taken),
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

/// A refusal says itself what is missing, if that is known.
fn refused(trial: &Trial, refusal: &Refusal, taken: Option<Hook>) -> Finding {
    let state = if taken.is_some() || !trial.allowed { State::Note } else { State::Failed };
    let finding = Finding::new(GROUP, trial.hook.as_str(), state, &refusal.sentence);
    finding.advice(match taken {
        Some(Hook::Tracepoint) => {
            "nothing: tracepoint serves, at some 40 ns for every system call of this machine"
        }
        Some(Hook::Fentry) => "nothing: fentry serves, and costs less",
        None => "see what has failed among the kernel and the privileges",
    })
}
