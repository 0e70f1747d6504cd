//! The sub-commands: settings, start, run, stop, exit code.

pub mod config;
pub mod exit_code;
mod startup;
mod run;
mod check;
mod trace;
pub mod doctor;

use config::{Command, Config};

use crate::kernel::Fault;

/// ProgramRuns a command to its end and returns the exit code.
///
/// # Errors
/// One sentence from intent to cause; nothing is left attached.
pub fn execute(config: &Config) -> anyhow::Result<u8> {
    execute_with(config, None)
}

/// [`execute`] with a fault that the cross-check has to find; for tests.
///
/// # Errors
/// As [`execute`].
///
/// # Panics
/// If no runtime can be made, for want of descriptors.
#[tokio::main(flavor = "current_thread")]
pub async fn execute_with(config: &Config, fault: Option<Fault>) -> anyhow::Result<u8> {
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
