//! The verdict of a window: a pure function from evidence to one word of a closed set, with its reasons.
//!
//! `preconditions` come first: they forbid any claim, or decide the verdict by themselves. If one of etcd's
//! two metrics is slow, `lost_time` adds up the lost time and each part of it gets a name: `storage`
//! names the time blocked in the kernel, `cpu` the rest. The largest part is the verdict.

mod advice;
mod preconditions;
mod evidence;
mod lost_time;
mod cpu;
mod storage;
mod format;

pub use evidence::{
    Class, ClassTime, CpuEvidence, DeviceEvidence, Evidence, InFlightNow, MetricEvidence, Neighbour, Scraped,
    SlowTime, TimeSplit,
};
pub use format::{bytes, percent, share, time};
pub use storage::cause_name;

use lost_time::{LostTime, is_slow, is_slow_in_etcd};

/// The answer to "is etcd's disk slow?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Syncs are within their limits, and the probe recorded every one of them.
    Healthy,
    /// An operation in flight is older than the limit, now.
    Stalled,
    /// The device is slow for every class of request.
    DeviceSlow,
    /// The device writes fast, but its flushes are slow.
    FlushSlow,
    /// Requests wait in the queue for longer than the device takes to serve them.
    QueueSaturated,
    /// Other processes cause at least half of the device's load.
    NoisyNeighbour,
    /// The file system's journal and locks delay etcd, and the device is not the cause.
    JournalContention,
    /// This machine throttles etcd's I/O although the device has capacity: a cgroup limit or a file system
    /// freeze.
    IoThrottled,
    /// etcd's threads could not run: within the system call, or outside it, where etcd's metrics still count
    /// the time as disk time.
    CpuStarved,
    /// Syncs are fast in the kernel and slow in etcd's own metrics, without evidence that etcd lacked a CPU.
    EtcdOverhead,
    /// etcd runs with `--unsafe-no-fsync`: nothing is durable, and no latency describes the disk.
    FsyncDisabled,
    /// The window contains too few events.
    TooFewSamples,
    /// The endpoint belongs to a process other than the traced one.
    EndpointMismatch,
    /// The probe misses events, or cannot prove that it records all of them.
    Blind,
}

impl Verdict {
    pub const ALL: [Self; 14] = [
        Self::Healthy,
        Self::Stalled,
        Self::DeviceSlow,
        Self::FlushSlow,
        Self::QueueSaturated,
        Self::NoisyNeighbour,
        Self::JournalContention,
        Self::IoThrottled,
        Self::CpuStarved,
        Self::EtcdOverhead,
        Self::FsyncDisabled,
        Self::TooFewSamples,
        Self::EndpointMismatch,
        Self::Blind,
    ];

    /// Returns the value of the label `verdict`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Stalled => "stalled",
            Self::DeviceSlow => "device_slow",
            Self::FlushSlow => "flush_slow",
            Self::QueueSaturated => "queue_saturated",
            Self::NoisyNeighbour => "noisy_neighbour",
            Self::JournalContention => "journal_contention",
            Self::IoThrottled => "io_throttled",
            Self::CpuStarved => "cpu_starved",
            Self::EtcdOverhead => "etcd_overhead",
            Self::FsyncDisabled => "fsync_disabled",
            Self::TooFewSamples => "too_few_samples",
            Self::EndpointMismatch => "endpoint_mismatch",
            Self::Blind => "blind",
        }
    }

    /// Returns the exit code of `check`: 0 healthy, 1 unhealthy, 2 unknown.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::TooFewSamples | Self::EndpointMismatch | Self::Blind => 2,
            _ => 1,
        }
    }
}

/// A verdict, the sentence with its numbers, and the next steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub reason: String,
    /// Where the lost time went, the largest part first; empty if nothing is slow. The first is the verdict.
    pub causes: Vec<Attribution>,
    pub next: Vec<String>,
}

/// A named part of the lost time.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    pub verdict: Verdict,
    pub seconds: f64,
    /// Part of all time lost, 0 to 1.
    pub share: f64,
    pub reason: String,
}

/// The minimum number of events for a p99.
const SAMPLES_MIN: u64 = 100;

/// With this many of etcd's events and none of the kernel's, the probe is blind. Also the minimum number of
/// events from which a member can be slow.
const EVENTS_MIN_ALIVE: u64 = 5;

/// The minimum share of the lost time for a cause to be reported. Removing a smaller one would not visibly
/// change any latency, and samples are less exact than that.
const SHARE_MIN: f64 = 0.15;

/// Judges a window.
pub fn judge(evidence: &Evidence) -> Judgement {
    let (verdict, reason, causes) = if let Some((verdict, reason)) = preconditions::judge(evidence) {
        (verdict, reason, Vec::new())
    } else if let Some(lost) = LostTime::of(evidence) {
        let causes = attribute(evidence, &lost);
        match causes.first() {
            Some(first) => (first.verdict, explain(evidence, &causes), causes),
            None => (
                Verdict::Blind,
                format!(
                    "{}; the cause is unknown: no wait accounting, no stacks, no device",
                    figures(evidence)
                ),
                causes,
            ),
        }
    } else if evidence.figures.wal_fsync.kernel.count() < SAMPLES_MIN {
        let count = evidence.figures.wal_fsync.kernel.count();
        let reason = format!("{count} WAL syncs in the window; a p99 requires {SAMPLES_MIN}");
        (Verdict::TooFewSamples, reason, Vec::new())
    } else {
        (Verdict::Healthy, figures(evidence), Vec::new())
    };
    let mut next = advice::next(verdict, evidence);
    for second in causes.iter().skip(1) {
        let more = advice::next(second.verdict, evidence);
        next.extend(more.into_iter().take(1).filter(|line| !next.contains(line)).collect::<Vec<_>>());
    }
    Judgement { verdict, reason, causes, next }
}

/// Returns the named parts of the lost time, the largest first; none if no part can be named.
fn attribute(evidence: &Evidence, lost: &LostTime) -> Vec<Attribution> {
    let (frozen_s, frozen) = storage::frozen(lost);
    let mut parts = vec![(frozen_s, frozen)];
    parts.extend(cpu::name(evidence, lost));
    let rest_s = lost.storage_s - frozen_s;
    match storage::name(evidence, lost) {
        // A freeze and a limit both throttle I/O: they are one cause, with the reason of the longer one.
        Some((Verdict::IoThrottled, _)) if frozen_s > rest_s => parts[0].0 = lost.storage_s,
        Some(finding @ (Verdict::IoThrottled, _)) => parts[0] = (lost.storage_s, finding),
        Some(finding) if lost.in_kernel => parts.push((rest_s, finding)),
        None if lost.in_kernel && !lost.is_split => return Vec::new(),
        _ => {}
    }
    let total_s: f64 = parts.iter().map(|(seconds, _)| seconds).sum();
    if total_s <= 0.0 {
        return unmeasured(evidence, lost).into_iter().collect();
    }
    let mut causes: Vec<_> = parts
        .into_iter()
        .map(|(seconds, (verdict, reason))| Attribution {
            verdict,
            seconds,
            share: share(seconds, total_s),
            reason,
        })
        .filter(|cause| cause.share >= SHARE_MIN)
        .collect();
    causes.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    causes
}

/// Names the cause if the lost time was not measured: before the first scrapes, or on a kernel without
/// scheduler statistics.
fn unmeasured(evidence: &Evidence, lost: &LostTime) -> Option<Attribution> {
    let (verdict, reason) = if lost.in_kernel {
        storage::name(evidence, lost)?
    } else {
        let [starved, overhead] = cpu::name(evidence, lost).map(|(_, finding)| finding);
        if cpu::signs(evidence).is_empty() { overhead } else { starved }
    };
    Some(Attribution { verdict, seconds: 0.0, share: 1.0, reason })
}

/// Renders the latencies, the first and the second cause as sentences.
fn explain(evidence: &Evidence, causes: &[Attribution]) -> String {
    let sentence =
        |cause: &Attribution| format!("{} of the lost time: {}", percent(cause.share), cause.reason);
    let figures = figures(evidence);
    match causes {
        [first, second, ..] => {
            let also = sentence(second);
            format!("{figures}. {}. Also {}, {also}", sentence(first), second.verdict.as_str())
        }
        [only] => format!("{figures}. {}", sentence(only)),
        [] => figures,
    }
}

/// Renders the slow metrics, or both if none is slow.
fn figures(evidence: &Evidence) -> String {
    let is_slow_anywhere = |figure: &&MetricEvidence| is_slow(figure) || is_slow_in_etcd(figure);
    let mut shown: Vec<_> = evidence.figures.iter().filter(is_slow_anywhere).collect();
    if shown.is_empty() {
        shown = evidence.figures.iter().collect();
    }
    shown.into_iter().map(|figure| one_figure(figure, evidence)).collect::<Vec<_>>().join("; ")
}

fn one_figure(figure: &MetricEvidence, evidence: &Evidence) -> String {
    let p99 = figure.kernel.quantile(0.99).map_or_else(|| "unknown".to_owned(), time);
    let in_etcd = match figure.etcd_p99_above_s {
        Some(bound_s) if is_slow_in_etcd(figure) && !is_slow(figure) => {
            let mean =
                figure.overhead_s.map_or_else(String::new, |s| format!(", {} longer on average", time(s)));
            format!(" and above {} in etcd{mean}", time(bound_s))
        }
        _ => String::new(),
    };
    let above = [(evidence.heartbeat_s, "heartbeat interval"), (evidence.election_s, "election timeout")];
    let above = above.into_iter().filter_map(|(bound_s, what)| {
        let count = longer_than(figure, bound_s);
        (count > 0).then(|| format!(", {count} longer than the {what} of {}", time(bound_s)))
    });
    let count = figure.kernel.count();
    format!(
        "{} p99 is {p99} in the kernel{in_etcd}, limit {} ({count} events{})",
        figure.name,
        time(figure.limit_s),
        above.collect::<String>()
    )
}

/// Returns the number of events that took longer than a bound; the bound is exact to 1/32.
fn longer_than(figure: &MetricEvidence, bound_s: f64) -> u64 {
    if bound_s <= 0.0 {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time above 0 in nanoseconds; one beyond 584 years saturates"
    )]
    let [at_most] = figure.kernel.at_most(&[(bound_s * 1e9) as u64]);
    figure.kernel.count() - at_most
}

#[cfg(test)]
mod tests;
