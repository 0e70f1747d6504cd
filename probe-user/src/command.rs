//! The sub-commands: `config` parses the settings, `startup` starts the probe, `run`, `check`, `trace` and
//! `doctor` execute a sub-command, and `exit_code` maps its errors to exit codes.

pub mod config;
pub mod exit_code;
mod startup;
mod run;
mod check;
mod trace;
pub mod doctor;

use config::{Command, Config};

use crate::kernel::CountingFault;

/// Runs a sub-command to its end and returns the exit code.
///
/// # Errors
/// One sentence from the intent to the cause; no program stays attached.
pub fn execute(config: &Config) -> anyhow::Result<u8> {
    execute_with(config, None)
}

/// [`execute`] with a fault that the cross-check must detect; for tests.
///
/// # Errors
/// As [`execute`].
///
/// # Panics
/// If no runtime can be created because the process has no free file descriptor.
#[tokio::main(flavor = "current_thread")]
pub async fn execute_with(config: &Config, fault: Option<CountingFault>) -> anyhow::Result<u8> {
    match config.command {
        Command::Run { listen, ref web_config } => {
            run::run(&config.options, listen, web_config.as_deref(), fault).await.map(|()| 0)
        }
        Command::Check { duration, output } => check::check(&config.options, duration, output, fault).await,
        Command::Trace { slower_than, duration, output } => {
            trace::run(&config.options, slower_than, duration, output).await
        }
        Command::Doctor { output } => doctor::run(&config.options, output).await,
    }
}
