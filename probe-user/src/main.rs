//! The command line of etcd-disk-probe.

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};
use probe_user::{
    command::{
        self,
        config::{Args, Config},
        exit_code,
    },
    support::{allocator, logging},
};
use tracing::error;

fn main() -> ExitCode {
    allocator::return_large_blocks();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print(); // A closed pipe cannot be told anything.
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(exit_code::BAD_USAGE) };
        }
    };
    logging::init(args.options.log_format, args.options.kernel_log);
    let config = match Config::try_from(args) {
        Ok(config) => config,
        Err(error) => {
            error!("bad configuration: {error}");
            return ExitCode::from(exit_code::of_config(&error));
        }
    };
    match command::execute(&config) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            error!("{}", logging::chain(error.as_ref()));
            ExitCode::from(exit_code::of(&error))
        }
    }
}
