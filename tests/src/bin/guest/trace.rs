//! An independent timer: the kernel's own ring of system calls, read as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use probe_tests::machine::scratch::Tracefs;

const EVENTS: [&str; 2] = ["events/syscalls/sys_enter_fdatasync", "events/syscalls/sys_exit_fdatasync"];

/// A trace of `fdatasync` in progress. Ended on drop, and tracefs with it: the probe must work without it.
pub struct Trace {
    tracefs: Tracefs,
}

/// One line of the trace.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Event {
    thread: u32,
    seconds: f64,
    /// `None` for an exit.
    descriptor: Option<u32>,
}

impl Trace {
    pub fn start() -> anyhow::Result<Self> {
        let trace = Self { tracefs: Tracefs::mount()? };
        // One clock for all CPUs.
        set("trace_clock", "mono")?;
        set("trace", "")?;
        for event in EVENTS {
            set(&format!("{event}/enable"), "1")?;
        }
        Ok(trace)
    }

    /// Returns the duration of each segment sync of the process.
    pub fn stop(self, pid: u32) -> anyhow::Result<Vec<f64>> {
        let segments = descriptors_of_segments(pid)?;
        let threads = tasks(pid)?;
        let text = fs::read_to_string(self.tracefs.path().join("trace")).context("cannot read the trace")?;
        Ok(durations(&text, &threads, &segments))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        for event in EVENTS {
            if let Err(error) = set(&format!("{event}/enable"), "0") {
                println!("guest: {error:#}");
            }
        }
    }
}

fn set(file: &str, value: &str) -> anyhow::Result<()> {
    let path = Path::new(Tracefs::POINT).join(file);
    fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
}

fn descriptors_of_segments(pid: u32) -> anyhow::Result<BTreeSet<u32>> {
    let directory = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
    let open = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let target = fs::read_link(&path).ok()?;
        let descriptor = path.file_name()?.to_str()?.parse().ok()?;
        target.extension().is_some_and(|extension| extension == "wal").then_some(descriptor)
    });
    Ok(open.collect())
}

fn tasks(pid: u32) -> anyhow::Result<BTreeSet<u32>> {
    let directory = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Pairs entries with exits, thread by thread.
fn durations(trace: &str, threads: &BTreeSet<u32>, descriptors: &BTreeSet<u32>) -> Vec<f64> {
    let mut entered: BTreeMap<u32, f64> = BTreeMap::new();
    let mut durations = Vec::new();
    for event in trace.lines().filter_map(parse).filter(|event| threads.contains(&event.thread)) {
        match event.descriptor {
            Some(descriptor) if descriptors.contains(&descriptor) => {
                entered.insert(event.thread, event.seconds);
            }
            Some(_) => _ = entered.remove(&event.thread),
            None => durations.extend(entered.remove(&event.thread).map(|since| event.seconds - since)),
        }
    }
    durations
}

/// Parses `   etcd-312   [001] .....   12.345678: sys_fdatasync(fd: 8)`, or `… sys_fdatasync -> 0x0`.
fn parse(line: &str) -> Option<Event> {
    let (before, call) = line.split_once(": sys_fdatasync")?;
    let seconds = before.split_whitespace().last()?.parse().ok()?;
    let (task, _) = before.split_once(" [")?;
    let thread = task.trim_end().rsplit_once('-')?.1.parse().ok()?;
    let descriptor = match call.strip_prefix("(fd: ") {
        // In hexadecimal, with or without a prefix.
        Some(number) => {
            Some(u32::from_str_radix(number.trim_end_matches(')').trim_start_matches("0x"), 16).ok()?)
        }
        None => None,
    };
    Some(Event { thread, seconds, descriptor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_trace() {
        let cases = [
            (
                "            etcd-312     [001] .....    12.345678: sys_fdatasync(fd: a)",
                Some(Event { thread: 312, seconds: 12.345_678, descriptor: Some(10) }),
                "an entry",
            ),
            (
                "     a-b c-7       [000] ..... 1.000000: sys_fdatasync -> 0x0",
                Some(Event { thread: 7, seconds: 1.0, descriptor: None }),
                "an exit of a task with a dash and a blank",
            ),
            ("# tracer: nop", None, "a comment"),
        ];
        for (line, expected, why) in cases {
            assert_eq!(parse(line), expected, "{why}");
        }
    }

    #[test]
    fn entries_meet_the_exits_of_their_own_thread() {
        let trace = "  etcd-1 [000] ..... 1.000000: sys_fdatasync(fd: 8)\n\
                     \x20 etcd-2 [001] ..... 1.100000: sys_fdatasync(fd: 9)\n\
                     \x20 etcd-2 [001] ..... 1.200000: sys_fdatasync -> 0x0\n\
                     \x20 etcd-1 [000] ..... 1.500000: sys_fdatasync -> 0x0\n\
                     \x20 other-3 [000] ..... 1.500000: sys_fdatasync(fd: 8)\n";
        let found = durations(trace, &BTreeSet::from([1, 2]), &BTreeSet::from([8]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!((found[0] - 0.5).abs() < 1e-9, "{found:?}");
    }
}
