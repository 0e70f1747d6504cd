//! The probe with a fault, for the test of the test. `FAULT=drop` and `FAULT=double` count every thousandth event wrong;
//! `FAULT=detach` takes its hooks away behind its back, once the file `FAULT_WHEN` is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use probe_user::{
    command::{
        config::{Args, Config},
        run,
    },
    kernel::CountingFault,
    support::logging,
};

/// What holds a program attached, as `/proc/self/fd` names it: a link, or before Linux 5.15 a tracepoint's event.
const ATTACHMENTS: [&str; 3] = ["anon_inode:bpf_link", "anon_inode:bpf-link", "anon_inode:[perf_event]"];

fn main() -> ExitCode {
    let fault = match std::env::var("FAULT").as_deref() {
        Ok("drop") => Some(CountingFault::Drop),
        Ok("double") => Some(CountingFault::Double),
        Ok("detach") => {
            let when: PathBuf = std::env::var_os("FAULT_WHEN").expect("the tests say when").into();
            thread::spawn(move || detach(&when));
            None
        }
        other => {
            eprintln!("cannot tell the fault from FAULT={other:?}: drop, double or detach");
            return ExitCode::FAILURE;
        }
    };
    logging::init(probe_user::command::config::LogFormat::Text, false);
    let config = Config::try_from(Args::parse()).expect("the tests give good flags");
    match run::run_with(&config, fault) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Puts another file in the place of whatever holds a program attached, as soon as the file is there.
fn detach(when: &Path) {
    while !when.exists() {
        thread::sleep(Duration::from_millis(50));
    }
    let nothing = fs::File::open("/dev/null").expect("there is always /dev/null");
    for entry in fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten() {
        let held = fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_string_lossy().parse::<i32>();
        let Ok(number) = number else { continue };
        if ATTACHMENTS.iter().any(|name| held.as_os_str() == *name) {
            // SAFETY: the number is of an open file, and stays the number of one: this is what is to happen.
            let mut attachment =
                unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) };
            rustix::io::dup2(&nothing, &mut attachment).expect("both are open");
            std::mem::forget(attachment); // It is the probe's.
        }
    }
}
