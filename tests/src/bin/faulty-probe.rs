//! The probe with a fault, to test the tests. `FAULT=drop` and `FAULT=double` miscount every thousandth
//! event; `FAULT=detach` detaches its hooks without its knowledge, once the file `FAULT_WHEN` exists.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use probe_user::command;
use probe_user::command::config::{Args, Config};
use probe_user::kernel::CountingFault;
use probe_user::support::logging;

/// The descriptor that keeps a program attached, as `/proc/self/fd` names it: a link, or before Linux 5.15 a
/// tracepoint's event.
const ATTACHMENTS: [&str; 3] = ["anon_inode:bpf_link", "anon_inode:bpf-link", "anon_inode:[perf_event]"];

fn main() -> ExitCode {
    let fault = match std::env::var("FAULT").as_deref() {
        Ok("drop") => Some(CountingFault::Drop),
        Ok("double") => Some(CountingFault::Double),
        Ok("detach") => {
            let when: PathBuf = std::env::var_os("FAULT_WHEN").expect("the tests set FAULT_WHEN").into();
            thread::spawn(move || detach(&when));
            None
        }
        other => {
            eprintln!("cannot parse FAULT={other:?}; use drop, double or detach");
            return ExitCode::FAILURE;
        }
    };
    logging::init(logging::LogFormat::Text, false);
    let config = Config::try_from(Args::parse()).expect("the tests pass valid flags");
    match command::execute_with(&config, fault) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Replaces every descriptor that keeps a program attached by another file, as soon as the file exists.
fn detach(when: &Path) {
    while !when.exists() {
        thread::sleep(Duration::from_millis(50));
    }
    let nothing = fs::File::open("/dev/null").expect("/dev/null always exists");
    for entry in fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten() {
        let held = fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_string_lossy().parse::<i32>();
        let Ok(number) = number else { continue };
        if ATTACHMENTS.iter().any(|name| held.as_os_str() == *name) {
            // SAFETY: the descriptor is open and stays open, for another file: that is the intended fault.
            let mut attachment =
                unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) };
            rustix::io::dup2(&nothing, &mut attachment).expect("both are open");
            std::mem::forget(attachment); // It is the probe's.
        }
    }
}
