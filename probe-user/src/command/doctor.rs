//! `doctor`: what this kernel, these privileges and these endpoints allow, and what to do, one line each.
//!
//! First, everything is inspected (`system::host`, `try_hooks`, `inspect_members`); then functions without
//! I/O judge it (`machine_lines`, `hook_lines`, `member_lines`) and `doctor_text` renders the lines. It
//! changes nothing. A refusal is a line and does not end the examination.

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
use inspect_members::InspectedMembers;
use try_hooks::PrivilegedAttempts;

use crate::{
    command::{
        config::{Options, OutputFormat},
        exit_code,
        startup::overrides,
    },
    discovery::Overrides,
    kernel::Hook,
    system::host::Host,
};

/// The complete diagnosis. Fields are added, never renamed or removed, while `schema` stays the same.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    pub schema: u32,
    /// Whether the probe can run here.
    pub fit: bool,
    /// The hook that `run` would use.
    pub hook: Option<&'static str>,
    pub findings: Vec<DoctorFinding>,
    pub host: Host,
    #[serde(rename = "visited")]
    pub inspected: InspectedMembers,
    #[serde(skip)]
    exit_code: u8,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoctorFinding {
    pub group: String,
    pub what: String,
    pub state: Severity,
    pub detail: String,
    /// What to do; none if no action is needed.
    pub advice: Option<String>,
}

/// The state of a line, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Ok,
    /// Worth knowing; no action needed.
    Note,
    /// The probe runs, and something is missing or will be soon.
    Warning,
    /// The probe, or its cross-check of this member, does not work.
    Failed,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

impl DoctorFinding {
    fn new(group: &str, what: impl Into<String>, state: Severity, detail: impl Into<String>) -> Self {
        Self { group: group.to_owned(), what: what.into(), state, detail: detail.into(), advice: None }
    }

    fn advice(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

impl Diagnosis {
    /// Returns the exit code: the one with which `run` would refuse; otherwise 1 if action is required, and 0
    /// if not.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

/// Examines the host and prints the diagnosis; returns the exit code.
///
/// # Errors
/// If the diagnosis cannot be encoded or printed.
pub async fn run(options: &Options, output: OutputFormat) -> anyhow::Result<u8> {
    let diagnosis = examine(options, &overrides(options)?).await;
    let text = match output {
        OutputFormat::Text => render(&diagnosis),
        OutputFormat::Json => {
            serde_json::to_string_pretty(&diagnosis).context("cannot encode the diagnosis")? + "\n"
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the diagnosis")?;
    Ok(diagnosis.exit_code())
}

/// Inspects everything once, tries each kind of hook, and drops privileges as the daemon does.
async fn examine(options: &Options, overrides: &Overrides) -> Diagnosis {
    let host = Host::read();
    let attempts = try_hooks::all(options);
    let inspected = inspect_members::all(options, overrides, &attempts.netns_spawner).await;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    diagnose(host, &attempts, inspected, now_s)
}

/// Judges the inspected facts, at a time in seconds since 1970.
fn diagnose(host: Host, attempts: &PrivilegedAttempts, inspected: InspectedMembers, now_s: i64) -> Diagnosis {
    let hook = hook_lines::selected(&attempts.hooks);
    let mut findings = machine_lines::kernel(&host, hook.is_some());
    findings.extend(machine_lines::privileges(&host, attempts.drop.as_ref()));
    findings.extend(hook_lines::findings(&attempts.hooks));
    findings.extend(member_lines::findings(&inspected, now_s));
    let worst = findings.iter().map(|finding| finding.state).max().unwrap_or(Severity::Ok);
    let refused = attempts
        .hooks
        .iter()
        .filter(|attempt| attempt.allowed)
        .filter_map(|attempt| attempt.outcome.as_ref().err());
    let exit_code = match (hook, &attempts.drop) {
        // The larger code is insufficient privileges (77): with them, the other hook may work.
        (None, _) => refused.map(|failure| failure.exit_code).max().unwrap_or(exit_code::NO_KERNEL_SUPPORT),
        (Some(_), Some(Err(failure))) => failure.exit_code,
        (Some(_), _) if worst >= Severity::Warning => exit_code::DEGRADED,
        (Some(_), _) => 0,
    };
    let fit = matches!(exit_code, 0 | exit_code::DEGRADED);
    Diagnosis { schema: 1, fit, hook: hook.map(Hook::as_str), findings, host, inspected, exit_code }
}

#[cfg(test)]
mod tests;
