//! Every command that people and CI run on this repository.

mod process;
mod setup;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get whatever is missing: eBPF toolchain, system packages, etcds for the tests
    Setup,
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Setup => setup::run().map(drop),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
