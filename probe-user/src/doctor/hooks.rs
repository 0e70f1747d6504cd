//! The lines about the hooks that were tried.

use super::{Finding, State, trial::Trial};
const GROUP: &str = "hooks";

const TRACEPOINT: &str = "tracepoint";

/// Returns a line for each kind of hook.
pub fn findings(trials: &[Trial]) -> Vec<Finding> {
    let taken = trials.iter().find(|trial| trial.outcome.is_ok()).map(|trial| trial.hook);
    trials.iter().map(|trial| of_trial(trial, taken)).collect()
}

fn of_trial(trial: &Trial, taken: Option<&str>) -> Finding {
    let refusal = match &trial.outcome {
        Ok(()) => {
            let taken = if taken == Some(trial.hook) { "; this one is taken" } else { "" };
            let detail = format!("attached for a moment{taken}");
            return Finding::new(GROUP, trial.hook, State::Ok, detail);
        }
        Err(refusal) => refusal,
    };
    let state = if taken.is_some() { State::Note } else { State::Failed };
    let finding = Finding::new(GROUP, trial.hook, state, &refusal.sentence);
    match taken {
        Some(TRACEPOINT) => finding.advice(
            "nothing: tracepoint does the same, and adds some 40 ns to every system call of this machine",
        ),
        Some(taken) => finding.advice(format!("nothing: {taken} does the same")),
        None => finding.advice("see the lines of the kernel and of the privileges"),
    }
}
