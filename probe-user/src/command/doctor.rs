//! What this kernel, these privileges and these endpoints allow, line by line, and what to do about each.
//!
//! First everything is looked at (`host`, `trial`, `visit`), then judged by functions without I/O (`machine`, `hooks`,
//! `members`). It changes nothing, and whatever is refused is a line, not the end.

mod hook_lines;
mod machine_lines;
mod member_lines;
mod doctor_text;
mod try_hooks;
mod inspect_members;

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;

use serde::Serialize;

pub use doctor_text::render;
use inspect_members::Visited;
use try_hooks::Trials;

use crate::{
    command::{
        config::{Options, Output},
        exit_code,
        startup::overrides,
    },
    discovery::Overrides,
    kernel::Hook,
    system::host::Host,
};

/// All that was found. Fields are added, never renamed or removed, while `schema` stays.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    pub schema: u32,
    /// Whether the probe can run here.
    pub fit: bool,
    /// The hook that it would take.
    pub hook: Option<&'static str>,
    pub findings: Vec<Finding>,
    pub host: Host,
    pub visited: Visited,
    #[serde(skip)]
    exit_code: u8,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub group: String,
    pub what: String,
    pub state: State,
    pub detail: String,
    /// What to do; nothing if it is well.
    pub advice: Option<String>,
}

/// How something fares, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// Worth knowing, and nobody has to act.
    Note,
    /// The probe runs, and something is missing or will be soon.
    Warning,
    /// It cannot work like this.
    Failed,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

impl Finding {
    fn new(group: &str, what: impl Into<String>, state: State, detail: impl Into<String>) -> Self {
        Self { group: group.to_owned(), what: what.into(), state, detail: detail.into(), advice: None }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

impl Diagnosis {
    /// Returns the exit code: that with which `run` would refuse; else 1 if somebody has to act, and 0 if nobody has.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

/// Examines the host and prints the diagnosis; returns the exit code.
///
/// # Errors
/// If the diagnosis cannot be encoded or printed.
pub async fn run(options: &Options, output: Output) -> anyhow::Result<u8> {
    let diagnosis = examine(options, &overrides(options)?).await;
    let text = match output {
        Output::Text => render(&diagnosis),
        Output::Json => {
            serde_json::to_string_pretty(&diagnosis).context("cannot encode the diagnosis")? + "\n"
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the diagnosis")?;
    Ok(diagnosis.exit_code())
}

/// Looks at everything once, tries each kind of hook, and gives up privileges as the daemon does.
async fn examine(options: &Options, overrides: &Overrides) -> Diagnosis {
    let host = Host::read();
    let trials = try_hooks::all(options);
    let visited = inspect_members::all(options, overrides, &trials.entrance).await;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    diagnose(host, &trials, visited, now_s)
}

/// Judges what was seen, at a time in seconds since 1970.
fn diagnose(host: Host, trials: &Trials, visited: Visited, now_s: i64) -> Diagnosis {
    let hook = hook_lines::taken(&trials.hooks);
    let mut findings = machine_lines::kernel(&host, hook.is_some());
    findings.extend(machine_lines::privileges(&host, trials.drop.as_ref()));
    findings.extend(hook_lines::findings(&trials.hooks));
    findings.extend(member_lines::findings(&visited, now_s));
    let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
    let refused =
        trials.hooks.iter().filter(|trial| trial.allowed).filter_map(|trial| trial.outcome.as_ref().err());
    let exit_code = match (hook, &trials.drop) {
        // Privilege first: with it, the other hook may do better.
        (None, _) => refused.map(|refusal| refusal.exit_code).max().unwrap_or(exit_code::NO_KERNEL_SUPPORT),
        (Some(_), Some(Err(refusal))) => refusal.exit_code,
        (Some(_), _) if worst >= State::Warning => exit_code::DEGRADED,
        (Some(_), _) => 0,
    };
    let fit = matches!(exit_code, 0 | exit_code::DEGRADED);
    Diagnosis { schema: 1, fit, hook: hook.map(Hook::as_str), findings, host, visited, exit_code }
}

#[cfg(test)]
mod tests;
