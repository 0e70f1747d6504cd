//! What a report consists of. docs/report.md describes it, and docs/report.schema.json is made from it.
//!
//! Times are seconds, shares 0 to 1; what is not known is null.

use crate::analysis::disk_metric::PerMetric;
use schemars::JsonSchema;
use serde::Serialize;

use crate::analysis::{
    causes::Cause,
    verdict::{
        Attribution, Class, ClassTime, CpuEvidence, DeviceEvidence, Figure, InFlightNow, Neighbour, SlowTime,
        Split,
    },
};

/// Fields are added, never renamed or removed, while this stays. 2: `unattributed` is no verdict; times are told apart.
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
    /// How often the kernel did not run one of our programs; also among the misses.
    #[serde(skip)]
    pub skipped_runs: u64,
    /// What was not measured, by reason; those that are 0 are left out.
    pub misses: Vec<(&'static str, u64)>,
}

/// One member in the window.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MemberReport {
    /// etcd's `--name`; with its data directory where two members of one machine share a name.
    pub member: String,
    pub verdict: &'static str,
    /// The numbers behind the verdict, for people.
    pub reason: String,
    /// For how long the verdict has held; null in a single check.
    pub since_s: Option<f64>,
    /// Where the lost time went, the largest part first; empty if nothing is slow. Those below 15 % are left out.
    pub causes: Vec<CauseReport>,
    /// What to do next, for people; empty if healthy.
    pub next: Vec<String>,
    /// Null once the process ended.
    pub pid: Option<u32>,
    /// etcd's version, from its metrics.
    pub version: Option<String>,
    pub data_dir: String,
    pub wal_dir: String,
    /// The first endpoint that is asked for metrics.
    pub endpoint: Option<String>,
    /// How long the window is that all figures are of.
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
    /// Who else uses that device, the heaviest first.
    pub neighbours: Vec<Neighbour>,
    pub cpu: CpuEvidence,
    /// Limits on block I/O that bind the member, a sentence each.
    pub io_limits: Vec<String>,
    #[serde(skip)]
    pub exit_code: u8,
}

/// A part of the lost time.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CauseReport {
    pub verdict: &'static str,
    /// Time lost to it in the window.
    pub seconds: f64,
    /// Part of all lost time.
    pub share: f64,
    pub reason: String,
}

/// One of etcd's figures beside its twin in the kernel.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FigureReport {
    /// `wal_fsync` or `backend_commit`.
    pub metric: &'static str,
    /// The p99 above which the member is not healthy.
    pub limit_s: f64,
    pub kernel: Side,
    pub etcd: Side,
    /// Mean time by which etcd's figure exceeds the kernel's.
    pub overhead_s: Option<f64>,
    pub crosscheck: Crosscheck,
}

/// Latencies of a window in seconds. etcd's are interpolated within its buckets, as Prometheus does.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Side {
    pub count: u64,
    pub mean_s: Option<f64>,
    pub p50_s: Option<f64>,
    pub p99_s: Option<f64>,
    pub p999_s: Option<f64>,
    /// etcd has no maximum.
    pub max_s: Option<f64>,
}

/// The reconciliation of a member's present life.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Crosscheck {
    /// Events since the probe came or etcd started, as the kernel counted them.
    pub kernel_events: u64,
    /// The same as etcd counted them; the last few may not have been scraped.
    pub etcd_events: u64,
    /// Events that only one side counted; 0 if exact.
    pub difference: i64,
    /// Events by which the origin is unknown; 0 once pinned, null before the first scrape.
    pub origin_uncertainty: Option<u64>,
    /// Events of etcds that ended before a scrape could confirm them.
    pub unverified: u64,
    /// Scrapes that broke an invariant.
    pub violations: u64,
}

/// Operations on the files of both figures that took longer than `--slow-threshold` each.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SlowReport {
    pub operations: u64,
    /// How long they took, added up.
    pub total_s: f64,
    /// Of these, on a CPU.
    pub on_cpu_s: f64,
    /// Of these, ready to run and waiting for a CPU.
    pub run_queue_s: f64,
    /// The rest, by what it was blocked on; causes without any are left out.
    pub waits: Vec<Wait>,
    /// The same by samples, with `--causes exact`, where `waits` are exact; null else.
    pub waits_sampled: Option<Vec<Wait>>,
    /// Part of the blocked time at whose samples no request was at the device.
    pub device_idle_s: f64,
    /// Part of the blocked time at whose samples at least one was.
    pub device_busy_s: f64,
    /// Innermost kernel functions of those blocked on `other`, the longest first.
    pub other_frames: Vec<String>,
}

/// Blocked time of one cause.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Wait {
    pub cause: &'static str,
    pub seconds: f64,
}

/// All operations on the files of both figures; what remains of the total was blocked.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct SplitReport {
    pub total_s: f64,
    /// Null if the kernel keeps no such account.
    pub on_cpu_s: Option<f64>,
    pub run_queue_s: Option<f64>,
    /// Time in etcd's figures that passed outside the kernel.
    pub outside_kernel_s: Option<f64>,
}

/// A block device.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeviceReport {
    /// The kernel's name of the device whose requests were counted.
    pub name: String,
    /// From the device that the file system is on downwards.
    pub layers: Vec<String>,
    pub model: Option<String>,
    /// The cloud whose volume this is, if it is one.
    pub cloud: Option<&'static str>,
    /// The I/O scheduler.
    pub scheduler: Option<String>,
    /// `write back` or `write through`.
    pub write_cache: Option<String>,
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
    /// Returns the exit code of `check`: the worst of all members', 2 if there is none.
    pub fn exit_code(&self) -> u8 {
        // Unhealthy beats unknown: somebody has to act.
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
    /// Adds up the slow operations of both figures' files.
    pub fn new(slow: &PerMetric<SlowTime>, other_frames: Vec<String>) -> Self {
        let sum = |part: fn(&SlowTime) -> f64| slow.iter().map(part).sum::<f64>();
        let by_cause = |seconds: &dyn Fn(Cause) -> f64| {
            let all = Cause::ALL.map(|cause| Wait { cause: cause.as_str(), seconds: seconds(cause) });
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
    /// Adds up all operations of both figures' files.
    pub fn new(split: &PerMetric<Split>, figures: &PerMetric<Figure>) -> Self {
        // An unknown part makes the whole unknown.
        let sum = |part: fn(&Split) -> Option<f64>| split.iter().map(part).sum::<Option<f64>>();
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
        let DeviceEvidence { name, layers, model, cloud, scheduler, write_cache, classes } = device;
        let classes =
            Class::ALL.map(|class| ClassReport { class: class.as_str(), time: classes[class as usize] });
        Self { name, layers, model, cloud, scheduler, write_cache, classes }
    }
}
