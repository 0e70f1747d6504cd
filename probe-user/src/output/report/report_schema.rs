//! The types of a report. docs/report.md describes them, and docs/report.schema.json is generated from them.
//!
//! Times are seconds, shares 0 to 1; an unknown value is null.

use schemars::JsonSchema;
use serde::Serialize;

use crate::analysis::{
    causes::Cause,
    disk_metric::PerMetric,
    verdict::{
        Attribution, Class, ClassTime, CpuEvidence, DeviceEvidence, InFlightNow, MetricEvidence, Neighbour,
        SlowTime, TimeSplit,
    },
};

/// Version of the report. Fields are added, never renamed or removed, while it stays the same. Version 2:
/// `unattributed` is no longer a verdict, and lost time is split by cause.
pub const SCHEMA: u32 = 2;

/// A report.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Report {
    /// Version of this format: 2.
    pub schema: u32,
    /// How the kernel programs are attached: `fentry` or `tracepoint`.
    pub hook: &'static str,
    /// Why the last self-test failed; null if it passed.
    pub self_test_failure: Option<String>,
    pub members: Vec<MemberReport>,
    /// How often the kernel skipped one of the probe's programs; also among the misses.
    #[serde(skip)]
    pub skipped_runs: u64,
    /// Events that were not measured, by reason, without counts of 0.
    pub misses: Vec<(&'static str, u64)>,
}

/// One member in the window.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MemberReport {
    /// etcd's `--name`; with its data directory if two members of one machine share a name.
    pub member: String,
    pub verdict: &'static str,
    /// The numbers behind the verdict, for people.
    pub reason: String,
    /// For how long the verdict has held; null in a single check.
    pub since_s: Option<f64>,
    /// Where the lost time went, the largest part first; empty if nothing is slow. Parts below 15 % are
    /// omitted.
    pub causes: Vec<CauseReport>,
    /// Next steps, for people; empty if healthy.
    pub next: Vec<String>,
    /// Null once the process has ended.
    pub pid: Option<u32>,
    /// etcd's version, from its metrics.
    pub version: Option<String>,
    pub data_dir: String,
    pub wal_dir: String,
    /// The first endpoint that is scraped for metrics.
    pub endpoint: Option<String>,
    /// Length of the window that all values cover.
    pub window_s: f64,
    /// Age of the oldest operation in flight, now; 0 for none.
    pub in_flight_s: f64,
    /// The same operation.
    pub in_flight: Option<InFlightNow>,
    /// WAL syncs, backend commits.
    pub figures: [FigureReport; 2],
    /// Where the time of slow operations went.
    pub slow: SlowReport,
    /// Where the time of all operations went.
    pub split: SplitReport,
    /// The block device under the member's files; null if there is none or it is not observed.
    pub device: Option<DeviceReport>,
    /// Other users of that device, the heaviest first.
    pub neighbours: Vec<Neighbour>,
    pub cpu: CpuEvidence,
    /// Block I/O limits that apply to the member, a sentence each.
    pub io_limits: Vec<String>,
    #[serde(skip)]
    pub exit_code: u8,
}

/// A part of the lost time.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CauseReport {
    pub verdict: &'static str,
    /// Time of this part in the window.
    pub seconds: f64,
    /// Share of all lost time.
    pub share: f64,
    pub reason: String,
}

/// One of etcd's disk metrics next to its counterpart in the kernel.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FigureReport {
    /// `wal_fsync` or `backend_commit`.
    pub metric: &'static str,
    /// The p99 above which the member is not healthy.
    pub limit_s: f64,
    pub kernel: LatencySummary,
    pub etcd: LatencySummary,
    /// Mean time per event by which etcd's latency exceeds the kernel's.
    pub overhead_s: Option<f64>,
    pub crosscheck: Crosscheck,
}

/// Latencies of a window in seconds. etcd's quantiles are interpolated within its buckets, as in Prometheus.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Side")]
pub struct LatencySummary {
    pub count: u64,
    pub mean_s: Option<f64>,
    pub p50_s: Option<f64>,
    pub p99_s: Option<f64>,
    pub p999_s: Option<f64>,
    /// etcd has no maximum.
    pub max_s: Option<f64>,
}

/// The reconciliation of the kernel's events with etcd's.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Crosscheck {
    /// Events since the probe attached or etcd started, as counted by the kernel.
    pub kernel_events: u64,
    /// The same as counted by etcd; the last few may not have been scraped.
    pub etcd_events: u64,
    /// Events that only one side counted; 0 if exact.
    pub difference: i64,
    /// Uncertainty of the origin in events; 0 once it is known exactly, null before the first scrape.
    pub origin_uncertainty: Option<u64>,
    /// Events that no scrape could verify because the etcd process ended.
    pub unverified: u64,
    /// Scrapes that violated an invariant.
    pub violations: u64,
}

/// Operations on the files of both metrics that took longer than `--slow-threshold` each.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SlowReport {
    pub operations: u64,
    /// Their time, added up.
    pub total_s: f64,
    /// Part of the total on a CPU.
    pub on_cpu_s: f64,
    /// Part of the total ready to run and waiting for a CPU.
    pub run_queue_s: f64,
    /// The rest, the blocked time, by cause; causes without any are omitted.
    pub waits: Vec<WaitReport>,
    /// The same from samples, with `--causes exact`, which makes `waits` exact; otherwise null.
    pub waits_sampled: Option<Vec<WaitReport>>,
    /// Part of the blocked time with samples at which the device had no request.
    pub device_idle_s: f64,
    /// Part of the blocked time with samples at which the device had at least one request.
    pub device_busy_s: f64,
    /// Innermost kernel functions of operations blocked on `other`, the longest time first.
    pub other_frames: Vec<String>,
}

/// Blocked time of one cause.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Wait")]
pub struct WaitReport {
    pub cause: &'static str,
    pub seconds: f64,
}

/// All operations on the files of both metrics; the rest of the total was blocked.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SplitReport {
    pub total_s: f64,
    /// Null if the kernel does not account for it.
    pub on_cpu_s: Option<f64>,
    pub run_queue_s: Option<f64>,
    /// Time in etcd's metrics that passed outside the kernel.
    pub outside_kernel_s: Option<f64>,
}

/// A block device.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceReport {
    #[serde(flatten)]
    pub device: DeviceEvidence,
    pub classes: [ClassReport; 4],
}

/// The requests of one class in the window.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ClassReport {
    /// `read`, `write`, `flush`, `discard`.
    pub class: &'static str,
    #[serde(flatten)]
    pub time: ClassTime,
}

impl Report {
    /// Returns the exit code of `check`: the worst of all members, 2 without members.
    pub fn exit_code(&self) -> u8 {
        // Unhealthy outranks unknown: it requires action.
        let codes = self.members.iter().map(|member| member.exit_code);
        codes.max_by_key(|code| [0, 2, 1][usize::from(*code)]).unwrap_or(2)
    }
}

impl From<Attribution> for CauseReport {
    fn from(Attribution { verdict, seconds, share, reason }: Attribution) -> Self {
        Self { verdict: verdict.as_str(), seconds, share, reason }
    }
}

impl SlowReport {
    /// Adds up the slow operations on the files of both metrics.
    pub fn new(slow: &PerMetric<SlowTime>, other_frames: Vec<String>) -> Self {
        let sum = |part: fn(&SlowTime) -> f64| slow.iter().map(part).sum::<f64>();
        let by_cause = |seconds: &dyn Fn(Cause) -> f64| {
            let all = Cause::ALL.map(|cause| WaitReport { cause: cause.as_str(), seconds: seconds(cause) });
            all.into_iter().filter(|wait| wait.seconds > 0.0).collect::<Vec<_>>()
        };
        let sampled: Vec<_> = slow.iter().filter_map(|slow| slow.sampled_s).collect();
        let waits_sampled = (!sampled.is_empty())
            .then(|| by_cause(&|cause| sampled.iter().map(|by_cause| by_cause[cause]).sum()));
        Self {
            operations: slow.iter().map(|slow| slow.operations).sum(),
            total_s: sum(|slow| slow.total_s),
            on_cpu_s: sum(|slow| slow.on_cpu_s),
            run_queue_s: sum(|slow| slow.run_queue_s),
            waits: by_cause(&|cause| slow.iter().map(|slow| slow.waits_s[cause]).sum()),
            waits_sampled,
            device_idle_s: sum(|slow| slow.device_idle_s),
            device_busy_s: sum(|slow| slow.device_busy_s),
            other_frames,
        }
    }
}

impl SplitReport {
    /// Adds up all operations on the files of both metrics.
    pub fn new(split: &PerMetric<TimeSplit>, figures: &PerMetric<MetricEvidence>) -> Self {
        // An unknown part makes the whole unknown.
        let sum = |part: fn(&TimeSplit) -> Option<f64>| split.iter().map(part).sum::<Option<f64>>();
        let outside_s: Option<f64> = figures.iter().map(|figure| figure.overhead_total_s).sum();
        Self {
            total_s: split.iter().map(|split| split.total_s).sum(),
            on_cpu_s: sum(|split| split.on_cpu_s),
            run_queue_s: sum(|split| split.run_queue_s),
            outside_kernel_s: outside_s.map(|seconds| seconds.max(0.0)),
        }
    }
}

impl From<DeviceEvidence> for DeviceReport {
    fn from(device: DeviceEvidence) -> Self {
        let classes = Class::ALL
            .map(|class| ClassReport { class: class.as_str(), time: device.classes[class as usize] });
        Self { device, classes }
    }
}
