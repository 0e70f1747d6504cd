//! The evidence of a verdict: plain values, gathered by the monitor. Types that a report contains unchanged
//! implement `Serialize`.
//!
//! Times are seconds, and counts are of the window unless stated otherwise.

pub use probe_ebpf::io::Class;
use schemars::JsonSchema;
use serde::Serialize;

use crate::analysis::{causes::PerCause, disk_metric::PerMetric, latency::Latencies};

/// The result of the scrapes in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scraped {
    /// At least one scrape succeeded and came from the traced process.
    Yes,
    /// The last scrape failed, for this reason.
    Failed(String),
    /// Another process responded.
    OtherProcess,
    /// No scrape has completed yet.
    NotYet,
}

/// The evidence about one member in a window.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// Why the probe's self-test failed; none if it passed.
    pub self_test_failure: Option<&'a str>,
    pub scraped: Scraped,
    pub fsync_disabled: bool,
    /// The oldest operation in flight, now.
    pub in_flight: Option<InFlightNow>,
    pub stall_limit_s: f64,
    /// This member's heartbeat interval and election timeout; syncs must stay below both. 0.1 and 1 by
    /// default.
    pub heartbeat_s: f64,
    pub election_s: f64,
    /// How often the kernel skipped one of the probe's programs; the counts can differ by as many events for
    /// this known reason.
    pub skipped_runs: u64,
    pub window_s: f64,
    /// WAL syncs and backend commits.
    pub figures: PerMetric<MetricEvidence<'a>>,
    /// Where the time of slow operations went: operations on the WAL and its directory, operations on the
    /// backend.
    pub slow: PerMetric<SlowTime>,
    /// Where the time of all operations on the same files went.
    pub split: PerMetric<TimeSplit>,
    /// The device under the slower metric's files; none if there is none, or it is unknown.
    pub device: Option<DeviceEvidence>,
    /// Other users of that device, the heaviest first.
    pub neighbours: Vec<Neighbour>,
    pub cpu: CpuEvidence,
    /// Block I/O limits that apply to etcd's cgroup, a sentence each.
    pub io_limits: Vec<String>,
}

/// An operation that has started and not returned.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct InFlightNow {
    /// Seconds since it started.
    pub age_s: f64,
    /// The kind of file, a label value: `wal`.
    pub file: &'static str,
    /// The system call: `fdatasync`.
    pub op: &'static str,
    /// The cause of its wait, or kernel frames that indicate it; none if no stack was taken.
    pub waits_for: Option<String>,
}

/// The evidence about one of etcd's two disk metrics.
#[derive(Clone, Debug)]
pub struct MetricEvidence<'a> {
    /// The name in sentences: `WAL fsync`.
    pub name: &'static str,
    pub limit_s: f64,
    /// The kernel's latencies.
    pub kernel: &'a Latencies,
    /// etcd's events.
    pub etcd_count: u64,
    /// A latency that etcd's p99 certainly exceeds: a bound of its buckets.
    pub etcd_p99_above_s: Option<f64>,
    /// Mean time per event by which etcd's latency exceeds the kernel's.
    pub overhead_s: Option<f64>,
    /// The same for all events together.
    pub overhead_total_s: Option<f64>,
    /// Events that only one side counted; 0 if exact.
    pub difference: i64,
}

/// Where the time of slow operations went: of operations that took longer than `--slow-threshold` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlowTime {
    pub operations: u64,
    pub total_s: f64,
    pub on_cpu_s: f64,
    pub run_queue_s: f64,
    /// The blocked time, by [`Cause`](crate::analysis::causes::Cause).
    pub waits_s: PerCause<f64>,
    /// The same from samples; only if `waits_s` is exact.
    pub sampled_s: Option<PerCause<f64>>,
    /// Blocked time with samples at which the device had no request.
    pub device_idle_s: f64,
    /// Blocked time with samples at which the device had at least one request.
    pub device_busy_s: f64,
}

/// Where the time of all operations on a metric's files went; the rest of the total was blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TimeSplit {
    pub total_s: f64,
    /// None if the kernel does not account for it (`CONFIG_SCHED_INFO`).
    pub on_cpu_s: Option<f64>,
    pub run_queue_s: Option<f64>,
}

/// A block device and its requests, from all processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct DeviceEvidence {
    /// The kernel's name of the device whose requests were counted: `nvme0n1`.
    pub name: String,
    /// From the device of the file system downwards: `dm-0`, `nvme0n1p2`, `nvme0n1`.
    pub layers: Vec<String>,
    pub model: Option<String>,
    /// The cloud provider of this volume, if any: such volumes have limits that are enforced outside this
    /// machine.
    pub cloud: Option<&'static str>,
    /// The I/O scheduler: `none`, `mq-deadline`.
    pub scheduler: Option<String>,
    /// `write back`: a flush costs what the cache holds. `write through`: flushes are not sent.
    pub write_cache: Option<String>,
    /// By [`Class`]: reads, writes, flushes, discards. A report lists them with their names.
    #[serde(skip)]
    pub classes: [ClassTime; 4],
}

/// The requests of one class, added up. Several are in flight at once, so their times may exceed the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct ClassTime {
    pub requests: u64,
    /// Seconds from the entry into the block layer to completion.
    pub total_s: f64,
    /// Part of the total before the request was sent to the device.
    pub queue_s: f64,
    /// Part of the total at the device; 0 for a device without requests of its own, such as one of the device
    /// mapper.
    pub device_s: f64,
    /// Requests caused by the member.
    pub own_requests: u64,
    /// Requests of kernel threads that act for no particular cgroup: the journal, writeback.
    pub kernel_requests: u64,
    /// All other requests.
    pub other_requests: u64,
}

impl ClassTime {
    /// Returns the mean time of a request, the queue included.
    pub fn mean_s(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.total_s / self.requests as f64)
    }
}

impl DeviceEvidence {
    pub fn class(&self, class: Class) -> &ClassTime {
        &self.classes[class as usize]
    }
}

/// Another user of the same device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Neighbour {
    /// Path of its cgroup; none if it has no cgroup of its own.
    pub cgroup: Option<String>,
    /// The pod, unit or process, for people.
    pub owner: String,
    /// Name of the process that caused most of the load.
    pub process: String,
    pub requests: u64,
    pub flushes: u64,
    /// Calls of fsync, fdatasync and similar system calls.
    pub syncs: u64,
    pub discards: u64,
    pub bytes: u64,
    /// Its share, 0 to 1, of all requests, flushes or bytes, whichever is largest; the member's own count as
    /// part of the whole.
    pub share: f64,
}

/// CPU time, throttling and pressure of the etcd process and its cgroup. A field is none if the kernel does
/// not provide it or the privileges do not permit reading it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct CpuEvidence {
    /// Seconds for which the cgroup was throttled by its quota.
    pub throttled_s: Option<f64>,
    /// Periods (100 ms each unless configured otherwise) in which it was throttled.
    pub throttled_periods: Option<u64>,
    /// The quota in CPUs; none without a quota.
    pub quota_cpus: Option<f64>,
    /// Seconds for which threads of the process were ready and waited for a CPU, added up.
    pub run_delay_s: Option<f64>,
    /// Seconds for which its threads ran, added up.
    pub run_s: Option<f64>,
    /// Share of the window, 0 to 1, in which at least one task of the cgroup waited for a CPU (pressure stall
    /// information, `some`).
    pub psi_cpu_share: Option<f64>,
    /// Likewise for I/O.
    pub psi_io_share: Option<f64>,
    /// Likewise for memory.
    pub psi_memory_share: Option<f64>,
    /// Page faults that required a read from disk.
    pub major_faults: Option<u64>,
}
