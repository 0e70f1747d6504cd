//! One child process: its end, descendants, memory and CPU time. Processes are ended by pid only.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal};
use rustix::thread::CapabilitySet;

use crate::machine::cancel::Cancel;

/// Ticks per second in `/proc/PID/stat`: `USER_HZ`, which is part of the ABI on `x86_64` and `aarch64`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Sends a signal to a process; it is no error if the process has ended.
pub fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).context("cannot signal pid 0")?;
    match rustix::process::kill_process(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {pid}")),
    }
}

/// Returns a capability set of a thread from its status file: `CapPrm`, `CapEff` and so on.
pub fn capabilities(status: &Path, field: &str) -> anyhow::Result<CapabilitySet> {
    let text = fs::read_to_string(status).with_context(|| format!("cannot read {}", status.display()))?;
    let hex = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let hex = hex.with_context(|| format!("cannot find {field} in {}", status.display()))?;
    let bits = u64::from_str_radix(hex.trim(), 16).context("cannot read a set of capabilities")?;
    Ok(CapabilitySet::from_bits_retain(bits))
}

/// Gives the calling thread the lowest real-time priority: it precedes all ordinary threads.
pub fn take_precedence() -> io::Result<()> {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: it reads one `sched_param`, which outlives the call. 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const lowest) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for a child to end, for at most `limit`; returns `None` if it still runs.
pub fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    Cancel::default().wait_for(limit, || child.try_wait().context("cannot wait for a child"))
}

/// Ends a child: SIGTERM to `pid` (the child or its descendant), and SIGKILL to both after `grace`.
pub fn end(child: &mut Child, pid: u32, grace: Duration) -> anyhow::Result<ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    send(pid, Signal::TERM)?;
    if let Some(status) = wait(child, grace)? {
        return Ok(status);
    }
    send(pid, Signal::KILL)?;
    child.kill().context("cannot kill a child")?;
    child.wait().context("cannot wait for a child")
}

/// Describes in words how a process ended.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "an unknown end".to_owned(),
    }
}

/// Returns the kernel's name for a process, or `None` if it has ended.
pub fn comm(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Returns the first process called `name` among `pid` and its descendants.
///
/// A child started through `unshare --fork` is the parent of etcd, not etcd itself.
pub fn named_below(pid: u32, name: &str) -> Option<u32> {
    if comm(pid)? == name {
        return Some(pid);
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|children| children.split_whitespace().flat_map(str::parse).collect::<Vec<u32>>())
        .find_map(|child| named_below(child, name))
}

/// Returns the resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    status_kib(pid, "VmRSS:")
}

/// Returns the peak resident memory of a process, in bytes.
pub fn peak_resident_bytes(pid: u32) -> anyhow::Result<u64> {
    status_kib(pid, "VmHWM:")
}

fn status_kib(pid: u32, field: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("cannot find {field} in {path}"))? * 1024)
}

/// Returns the CPU time of a process so far, in user and kernel mode, with a resolution of 10 ms.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("cannot read CPU time from {path}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

/// Returns the number of write system calls of all threads of a process so far.
pub fn write_calls(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/io");
    let io = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let count = io.lines().find_map(|line| line.strip_prefix("syscw: ")?.parse().ok());
    count.with_context(|| format!("cannot find syscw in {path}"))
}

/// Adds `utime` and `stime`, fields 14 and 15; the name in field 2 may contain blanks and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.rsplit_once(") ")?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Returns the last lines of a log for an error message, or the reason why they cannot be read.
pub fn tail(log: &Path, lines: usize) -> String {
    match fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            format!("the end of {}:\n    {}", log.display(), last_lines(&text, lines))
        }
        Err(error) => format!("cannot read {}: {error}", log.display()),
    }
}

/// Returns the last lines of a text, indented except for the first.
pub fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_skip_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 30 12 0 0";
        let cases = [
            (format!("7 (etcd) {rest}"), Some(42), "a plain name"),
            (format!("7 (a b) c) {rest}"), Some(42), "a name with a blank and a parenthesis"),
            ("7 (etcd) S 1".to_owned(), None, "a line cut short"),
        ];
        for (stat, expected, why) in cases {
            assert_eq!(cpu_ticks(&stat), expected, "{why}");
        }
    }

    #[test]
    fn this_process_is_found_and_measured() {
        let pid = std::process::id();
        let name = comm(pid).unwrap();
        assert_eq!(named_below(pid, &name), Some(pid));
        assert!(resident_bytes(pid).unwrap() <= peak_resident_bytes(pid).unwrap());
        assert!(cpu_time(pid).unwrap() < Duration::from_hours(1));
    }
}
