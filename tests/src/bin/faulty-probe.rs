//! The probe, built to count wrong: `FAULT=drop` or `FAULT=double` every thousandth event. For the test of the test.

use std::process::ExitCode;

use clap::Parser;
use probe_user::{
    config::{Args, Config},
    daemon,
    kernel::Fault,
    logging,
};

fn main() -> ExitCode {
    let fault = match std::env::var("FAULT").as_deref() {
        Ok("drop") => Fault::Drop,
        Ok("double") => Fault::Double,
        other => {
            eprintln!("cannot tell the fault from FAULT={other:?}: drop or double");
            return ExitCode::FAILURE;
        }
    };
    logging::init(probe_user::config::LogFormat::Text, false);
    let config = Config::try_from(Args::parse()).expect("the tests give good flags");
    match daemon::run_with(&config, Some(fault)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
