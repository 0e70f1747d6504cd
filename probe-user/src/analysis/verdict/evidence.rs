//! All that a verdict rests on: plain values, gathered elsewhere. Those that a report shows as they are can be serialised.
//!
//! Times are seconds, and all that is counted was counted in the window unless it says otherwise.

use crate::analysis::disk_metric::PerMetric;
pub use probe_ebpf::io::Class;
use schemars::JsonSchema;
use serde::Serialize;

use crate::analysis::{causes::PerCause, latency::Latencies};

/// How the scrapes of a window went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scraped {
    /// At least once, by the process that is traced.
    Yes,
    /// The last one failed, for this reason.
    Failed(String),
    /// Another process answered.
    OtherProcess,
    /// None has ended yet.
    NotYet,
}

/// What is known of one member in a window.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// Why the probe's self-test failed, if it did.
    pub self_test_failure: Option<&'a str>,
    pub scraped: Scraped,
    pub fsync_disabled: bool,
    /// The oldest operation in flight, now.
    pub in_flight: Option<InFlightNow>,
    pub stall_limit_s: f64,
    /// This member's heartbeat interval and election timeout, which syncs must not reach: 0.1 and 1 by default.
    pub heartbeat_s: f64,
    pub election_s: f64,
    /// How often the kernel did not run a program of ours; so many events can differ for a known reason.
    pub skipped_runs: u64,
    pub window_s: f64,
    /// WAL syncs, backend commits; the arrays that follow are in the same order.
    pub figures: PerMetric<Figure<'a>>,
    /// Where the time of slow operations went: those on the WAL and its directory, those on the backend.
    pub slow: PerMetric<SlowTime>,
    /// Where the time of all operations on the same files went.
    pub split: PerMetric<Split>,
    /// The device under the slower of the files; none if it has none, or it is not known.
    pub device: Option<DeviceEvidence>,
    /// Who else uses that device, the heaviest first.
    pub neighbours: Vec<Neighbour>,
    pub cpu: CpuEvidence,
    /// Limits on block I/O that bind etcd's cgroup, a sentence each.
    pub io_limits: Vec<String>,
}

/// An operation that has begun and not ended.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct InFlightNow {
    /// Seconds since it began.
    pub age_s: f64,
    /// The kind of file, a label value: `wal`.
    pub file: &'static str,
    /// The system call: `fdatasync`.
    pub op: &'static str,
    /// The cause, if a stack was taken, or frames that tell of it.
    pub waits_for: Option<String>,
}

/// What is known of one of etcd's two figures.
#[derive(Clone, Debug)]
pub struct Figure<'a> {
    /// For the sentence: `WAL fsync`.
    pub name: &'static str,
    pub limit_s: f64,
    /// The kernel's latencies.
    pub kernel: &'a Latencies,
    /// etcd's events.
    pub etcd_count: u64,
    /// A latency that etcd's p99 is known to exceed: a bound of its buckets.
    pub etcd_p99_above_s: Option<f64>,
    /// Mean time by which etcd's figure exceeds the kernel's.
    pub overhead_s: Option<f64>,
    /// The same of all events together.
    pub overhead_total_s: Option<f64>,
    /// Events that only one side counted; 0 if exact.
    pub difference: i64,
}

/// Where the time of slow operations went: those that took longer than `--slow-threshold` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlowTime {
    pub operations: u64,
    pub total_s: f64,
    pub on_cpu_s: f64,
    pub run_queue_s: f64,
    /// The blocked time, by [`Cause`].
    pub waits_s: PerCause<f64>,
    /// The same by samples, where `waits_s` is exact.
    pub sampled_s: Option<PerCause<f64>>,
    /// Blocked time at whose samples no request was at the device.
    pub device_idle_s: f64,
    /// Blocked time at whose samples at least one was.
    pub device_busy_s: f64,
}

/// Where the time of all operations on a figure's files went; what remains of the total was blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Split {
    pub total_s: f64,
    /// None if the kernel keeps no such account (`CONFIG_SCHED_INFO`).
    pub on_cpu_s: Option<f64>,
    pub run_queue_s: Option<f64>,
}

/// What a block device did, for whomever.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceEvidence {
    /// The kernel's name of the device whose requests were counted: `nvme0n1`.
    pub name: String,
    /// From the device that the file system is on downwards: `dm-0`, `nvme0n1p2`, `nvme0n1`.
    pub layers: Vec<String>,
    pub model: Option<String>,
    /// The cloud whose volume this is, if it is one: such volumes have limits that are enforced outside this machine.
    pub cloud: Option<&'static str>,
    /// The I/O scheduler: `none`, `mq-deadline`.
    pub scheduler: Option<String>,
    /// `write back`: a flush costs what the cache holds. `write through`: flushes are not sent.
    pub write_cache: Option<String>,
    /// Reads, writes, flushes, discards.
    pub classes: [ClassTime; 4],
}

/// The requests of one class, added up: several are in flight at once, so their times may exceed the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct ClassTime {
    pub requests: u64,
    /// Seconds from the entry into the block layer to completion.
    pub total_s: f64,
    /// Of these, before it was sent to the device.
    pub queue_s: f64,
    /// Of these, at the device; 0 where a device has no requests of its own, as those of the device mapper.
    pub device_s: f64,
    /// Requests by who caused them: the member.
    pub own_requests: u64,
    /// Threads of the kernel that act for no cgroup in particular: the journal, writeback.
    pub kernel_requests: u64,
    /// Anybody else.
    pub other_requests: u64,
}

impl ClassTime {
    /// Returns how long a request took on average, the queue included.
    pub fn mean_s(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.total_s / self.requests as f64)
    }
}

impl DeviceEvidence {
    pub fn class(&self, class: Class) -> &ClassTime {
        &self.classes[class as usize]
    }
}

/// Somebody else who uses the same device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Neighbour {
    /// Path of its cgroup; none for what has no cgroup of its own.
    pub cgroup: Option<String>,
    /// The pod, unit or process, as a person knows it.
    pub owner: String,
    /// Name of the process that caused most of it.
    pub process: String,
    pub requests: u64,
    pub flushes: u64,
    /// Calls of fsync, fdatasync and their like.
    pub syncs: u64,
    pub discards: u64,
    pub bytes: u64,
    /// Its part, 0 to 1, of all requests, flushes or bytes, whichever is largest; those of the member count as part of the whole.
    pub share: f64,
}

/// What the CPU did for etcd: of the process and its cgroup. None where the kernel or the privileges do not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct CpuEvidence {
    /// Seconds for which the cgroup had used up its quota.
    pub throttled_s: Option<f64>,
    /// Periods (100 ms each unless set otherwise) in which that happened.
    pub throttled_periods: Option<u64>,
    /// CPUs that the quota amounts to; none without a quota.
    pub quota_cpus: Option<f64>,
    /// Seconds for which threads of the process were ready and waited for a CPU, added up.
    pub run_delay_s: Option<f64>,
    /// Seconds for which they ran.
    pub run_s: Option<f64>,
    /// Parts of the window, 0 to 1, for which some task of the cgroup waited for a CPU (pressure stall information, `some`).
    pub psi_cpu_share: Option<f64>,
    /// Likewise for I/O.
    pub psi_io_share: Option<f64>,
    /// Likewise for memory.
    pub psi_memory_share: Option<f64>,
    /// Page faults that had to read.
    pub major_faults: Option<u64>,
}
