//! Programs that people use for similar measurements.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use probe_tests::machine::command;
use probe_tests::machine::process;
use rustix::process::Signal;

use super::Tracer;

/// One program.
pub struct Peer {
    pub tracer: Tracer,
    pub program: &'static str,
    /// Its arguments; `PID` stands for the process.
    arguments: &'static [&'static str],
    /// Its output when it is ready; without one it gets [`SETTLE`] only.
    says: Option<&'static str>,
}

/// The time to attach what it has not yet attached when it reports readiness.
const SETTLE: Duration = Duration::from_millis(700);

/// The time limit for its end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The usual one-liner for latencies of four system calls by process; it distinguishes no files and no
/// causes.
const ONE_LINER: &str = r#"
BEGIN { printf("ready\n"); }
tracepoint:syscalls:sys_enter_write, tracepoint:syscalls:sys_enter_pwrite64,
tracepoint:syscalls:sys_enter_fdatasync, tracepoint:syscalls:sys_enter_fsync
/pid == PID/ { @start[tid] = nsecs; }
tracepoint:syscalls:sys_exit_write, tracepoint:syscalls:sys_exit_pwrite64,
tracepoint:syscalls:sys_exit_fdatasync, tracepoint:syscalls:sys_exit_fsync
/@start[tid]/ { @ns[probe] = hist(nsecs - @start[tid]); delete(@start[tid]); }
"#;

pub const PEERS: [Peer; 4] = [
    Peer {
        tracer: Tracer::Bpftrace,
        program: "bpftrace",
        // Into a pipe it would print nothing before it ends.
        arguments: &["-B", "line", "-e", ONE_LINER],
        says: Some("ready"),
    },
    Peer { tracer: Tracer::Syscount, program: "syscount", arguments: &["-L"], says: None },
    Peer { tracer: Tracer::PerfTrace, program: "perf", arguments: &["trace", "-s", "-p", "PID"], says: None },
    Peer { tracer: Tracer::Strace, program: "strace", arguments: &["-c", "-f", "-p", "PID"], says: None },
];

impl Peer {
    /// Starts it and waits until it traces.
    pub fn start(&self, pid: u32) -> anyhow::Result<Child> {
        let path = command::find(self.program).with_context(|| format!("cannot find {}", self.program))?;
        let mut child = Command::new(path)
            .args(self.arguments.iter().map(|word| word.replace("PID", &pid.to_string())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program))?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        if let Some(says) = self.says {
            let mut line = String::new();
            while !line.contains(says) {
                line.clear();
                if lines.read_line(&mut line)? == 0 {
                    bail!("{} ended: {}", self.program, child.wait()?);
                }
            }
        }
        thread::sleep(SETTLE);
        thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        if let Some(status) = child.try_wait()? {
            bail!("{} ended: {status}", self.program);
        }
        Ok(child)
    }
}

/// Ends it as Ctrl-C does.
pub fn stop(child: &mut Child) {
    _ = process::send(child.id(), Signal::INT);
    if matches!(process::wait(child, STOP_LIMIT), Ok(None)) {
        _ = child.kill();
        _ = child.wait();
    }
}
