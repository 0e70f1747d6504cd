//! The report of slow operations of `trace` and `/api/v1/slow`.

use std::fmt::Write;

use humantime::format_rfc3339_millis;
use probe_ebpf::state::NO_OFFSET;
use serde::Serialize;

use super::WaitReport;
use crate::analysis::{
    causes::Cause,
    latency::seconds,
    slow_operation::{DeviceActivity, LoggedOperation, WaitTimes, blocked_ns, comm},
    verdict::time,
};

/// One slow operation. Fields are added, never renamed or removed.
#[derive(Clone, Debug, Serialize)]
pub struct OperationReport {
    /// Counts up from 0 without a gap since the probe started.
    pub sequence: u64,
    /// Time at which it ended, RFC 3339 in UTC.
    pub time: String,
    pub member: String,
    /// Role of the file.
    pub file: &'static str,
    pub op: &'static str,
    pub thread_id: u32,
    pub latency_s: f64,
    pub on_cpu_s: f64,
    pub run_queue_s: f64,
    pub blocked_s: f64,
    /// The blocked time by cause, the longest first.
    pub waits: Vec<WaitReport>,
    /// The same from samples, with `--causes exact`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_sampled: Option<Vec<WaitReport>>,
    /// Kernel functions in which it was blocked the longest, innermost first.
    pub frames: Option<String>,
    /// Bytes written, for writes.
    pub bytes: u64,
    /// Offset in the file, for writes.
    pub offset: Option<u64>,
    /// Block requests that it caused, and the flushes among them.
    pub requests: u32,
    pub flushes: u32,
    /// Positive, as in `errno.h`; none if it succeeded.
    pub errno: Option<u32>,
    /// The three busiest other users of the device while it ran, or up to a second before.
    pub neighbours: Vec<NeighbourReport>,
}

/// The activity of another user of the device.
#[derive(Clone, Debug, Serialize)]
pub struct NeighbourReport {
    pub process: String,
    pub pid: Option<u32>,
    pub cgroup: Option<String>,
    pub requests: u64,
    pub flushes: u64,
    pub syncs: u64,
    pub bytes: u64,
}

/// Returns the report of an operation.
pub fn describe(logged: &LoggedOperation, cgroup_path: impl Fn(u64) -> Option<String>) -> OperationReport {
    let operation = &logged.operation;
    let record = &operation.record;
    let (file, op) = operation.operation().map_or(("", ""), |(role, op)| (role.as_str(), op.as_str()));
    let longest = operation.frames.iter().max_by_key(|(_, ns)| **ns);
    OperationReport {
        sequence: logged.sequence,
        time: format_rfc3339_millis(operation.at).to_string(),
        member: logged.member.clone(),
        file,
        op,
        thread_id: record.thread_id,
        latency_s: seconds(record.latency_ns),
        on_cpu_s: seconds(record.split.on_cpu_ns),
        run_queue_s: seconds(record.split.run_queue_ns),
        blocked_s: seconds(blocked_ns(record)),
        waits: waits(&operation.waits),
        waits_sampled: operation.sampled.as_ref().map(waits),
        frames: longest.map(|((_, frames), _)| frames.clone()).filter(|frames| !frames.is_empty()),
        bytes: record.bytes,
        offset: (record.offset != NO_OFFSET).then_some(record.offset),
        requests: record.requests,
        flushes: record.flushes,
        errno: (record.errno != 0).then_some(record.errno),
        neighbours: operation.neighbours.iter().map(|activity| neighbour(activity, &cgroup_path)).collect(),
    }
}

/// Returns the times by cause in seconds, the longest first, without times of 0.
pub fn waits(waits: &WaitTimes) -> Vec<WaitReport> {
    let all = Cause::ALL.map(|cause| (cause.as_str(), waits[cause]));
    let mut used: Vec<_> = all.into_iter().filter(|(_, ns)| *ns > 0).collect();
    used.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    used.into_iter().map(|(cause, ns)| WaitReport { cause, seconds: seconds(ns) }).collect()
}

fn neighbour(activity: &DeviceActivity, cgroup_path: impl Fn(u64) -> Option<String>) -> NeighbourReport {
    NeighbourReport {
        process: comm(activity.key.tgid, activity.comm),
        pid: (activity.key.tgid != 0).then_some(activity.key.tgid),
        cgroup: cgroup_path(activity.key.cgroup),
        requests: activity.requests,
        flushes: activity.flushes,
        syncs: activity.syncs,
        bytes: activity.bytes,
    }
}

/// Renders an operation as one line.
pub fn line(slow: &OperationReport) -> String {
    let mut out = format!("{} {} {} {} {}", slow.time, slow.member, slow.file, slow.op, time(slow.latency_s));
    // Writing to a `String` cannot fail.
    let _ = write!(out, " = cpu {} + run queue {}", time(slow.on_cpu_s), time(slow.run_queue_s));
    for wait in slow.waits.iter().take(3) {
        let _ = write!(out, " + {} {}", wait.cause, time(wait.seconds));
    }
    if slow.bytes > 0 {
        let _ = write!(out, "; {} bytes", slow.bytes);
        if let Some(offset) = slow.offset {
            let _ = write!(out, " at {offset}");
        }
    }
    let _ = write!(out, "; {} requests, {} flushes", slow.requests, slow.flushes);
    if let Some(errno) = slow.errno {
        let _ = write!(out, "; failed with errno {errno}");
    }
    if let Some(frames) = &slow.frames {
        let _ = write!(out, "; in {frames}");
    }
    for other in &slow.neighbours {
        let pid = other.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
        let _ = write!(out, "; next to {}{pid} with {} requests", other.process, other.requests);
        if other.syncs > 0 {
            let _ = write!(out, ", {} syncs", other.syncs);
        }
    }
    out
}
