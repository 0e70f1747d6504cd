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
    allocator::map_large_blocks();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let is_requested = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print(); // On a closed pipe there is no way to report it.
            return if is_requested { ExitCode::SUCCESS } else { ExitCode::from(exit_code::BAD_USAGE) };
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
