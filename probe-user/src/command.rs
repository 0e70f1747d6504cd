//! The sub-commands: settings, start, run, stop, exit code.

pub mod config;
pub mod run;
pub mod doctor;
pub mod exit_code;
