//! Who traces: the probe's kernel side alone, and its peers.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, bail};
use probe_tests::command;
use probe_user::kernel::{HookChoice, Kernel, KernelConfig, start};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tracer {
    None,
    Probe,
    Bpftrace,
}

impl Tracer {
    pub const ALL: [Self; 3] = [Self::None, Self::Probe, Self::Bpftrace];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Probe => "probe",
            Self::Bpftrace => "bpftrace",
        }
    }

    /// Returns whether it is on this machine.
    pub fn is_there(self) -> bool {
        self != Self::Bpftrace || command::find("bpftrace").is_some()
    }

    /// Begins to trace a process; ends on drop.
    pub fn start(self, pid: u32, hook: HookChoice) -> anyhow::Result<Tracing> {
        Ok(match self {
            Self::None => Tracing::Nothing,
            Self::Probe => {
                let config = KernelConfig {
                    process_names: vec!["etcd".to_owned()],
                    max_targets: 16,
                    slow: Some(std::time::Duration::from_millis(10)),
                    block: true,
                    ..KernelConfig::default()
                };
                Tracing::Probe(Box::new(start(hook, &config)?))
            }
            Self::Bpftrace => Tracing::Process(bpftrace(pid)?),
        })
    }
}

pub enum Tracing {
    Nothing,
    #[expect(dead_code, reason = "dropping it detaches")]
    Probe(Box<Kernel>),
    Process(Child),
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Self::Process(child) = self {
            let pid = rustix::process::Pid::from_child(child);
            _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            _ = child.wait();
        }
    }
}

/// What people type: latencies of four system calls by process, which knows neither file nor cause.
fn bpftrace(pid: u32) -> anyhow::Result<Child> {
    let calls = ["write", "pwrite64", "fdatasync", "fsync"];
    let hooks = |side: &str| calls.map(|call| format!("tracepoint:syscalls:sys_{side}_{call}")).join(",");
    let program = format!(
        "BEGIN {{ printf(\"ready\\n\"); }} {} /pid == {pid}/ {{ @start[tid] = nsecs; }} {} /@start[tid]/ {{ @ns[probe] = hist(nsecs - @start[tid]); delete(@start[tid]); }}",
        hooks("enter"),
        hooks("exit"),
    );
    let mut child = Command::new("bpftrace")
        // Into a pipe it would tell nothing before it ends.
        .args(["-B", "line", "-e", &program])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start bpftrace")?;
    let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?);
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            bail!("bpftrace ended: {}", child.wait()?);
        }
    }
    // BEGIN runs before the last hook is attached.
    thread::sleep(std::time::Duration::from_millis(500));
    thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    Ok(child)
}
