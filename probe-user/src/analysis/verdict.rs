//! What the numbers of a window mean: a pure function from evidence to one word of a closed set, with its reasons.
//!
//! First comes what forbids any claim, or makes one by itself ([`certain`]); then whether anything is slow; then the time that was lost is added up
//! ([`lost`]), and each part of it gets a name: what was blocked in the kernel from [`storage`], the rest from [`processor`]. The largest
//! part is the verdict.

mod advice;
mod preconditions;
mod evidence;
mod lost_time;
mod cpu;
mod storage;
mod format;

pub use evidence::{
    Class, ClassTime, CpuEvidence, DeviceEvidence, Evidence, Figure, InFlightNow, Neighbour, Scraped,
    SlowTime, Split,
};
pub use format::{bytes, percent, share, time};
pub use storage::words as cause_in_words;

use lost_time::{Lost, is_slow, is_slow_in_etcd};

/// The answer to "is etcd's disk slow?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Syncs are as fast as they should be, and every one of them was seen.
    Healthy,
    /// An operation has been in flight for longer than the limit, now.
    Stalled,
    /// The device takes long, for all that it is sent.
    DeviceSlow,
    /// The device writes fast, and takes long to make it durable.
    FlushSlow,
    /// Requests wait for their turn longer than the device takes for them.
    QueueSaturated,
    /// Somebody else makes at least half of the device's load.
    NoisyNeighbour,
    /// The file system's own journal and locks hold etcd up, and the device is not why.
    JournalContention,
    /// Something on this machine holds etcd's I/O back while the device could take it: a limit of a cgroup, a freeze.
    IoThrottled,
    /// etcd's threads could not run: within the system call, or outside of it where etcd blames the disk all the same.
    CpuStarved,
    /// Syncs are fast in the kernel and slow in etcd's own figures, and nothing shows that etcd lacked a CPU.
    EtcdOverhead,
    /// etcd runs with `--unsafe-no-fsync`: nothing is durable, and no figure says anything of the disk.
    FsyncDisabled,
    /// Too little happened in the window.
    TooFewSamples,
    /// The endpoint belongs to another process than the one that is traced.
    EndpointMismatch,
    /// The probe does not see what happens, or cannot show that it does.
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

    /// Returns the exit code of `check`: 0 healthy, 1 not, 2 could not tell.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::TooFewSamples | Self::EndpointMismatch | Self::Blind => 2,
            _ => 1,
        }
    }
}

/// A verdict, the sentence that gives its numbers, and what to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub reason: String,
    /// Where the lost time went, the largest part first; empty if nothing is slow. The first is the verdict.
    pub causes: Vec<Attribution>,
    pub next: Vec<String>,
}

/// A part of the lost time and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    pub verdict: Verdict,
    pub seconds: f64,
    /// Part of all time lost, 0 to 1.
    pub share: f64,
    pub reason: String,
}

/// Fewer events than these have no p99.
const ENOUGH: u64 = 100;

/// With this many of etcd's events and none of the kernel's, the probe is blind.
const CLEARLY_ALIVE: u64 = 5;

/// A cause with a smaller part of the lost time than this is left out: removing it would change no figure that anybody looks at, and samples
/// are not that exact.
const LEAST_SHARE: f64 = 0.15;

/// Judges a window.
pub fn judge(evidence: &Evidence) -> Judgement {
    let (verdict, reason, causes) = if let Some((verdict, reason)) = preconditions::judge(evidence) {
        (verdict, reason, Vec::new())
    } else if let Some(lost) = Lost::of(evidence) {
        let causes = attribute(evidence, &lost);
        match causes.first() {
            Some(first) => (first.verdict, explain(evidence, &causes), causes),
            None => (
                Verdict::Blind,
                format!(
                    "{}; nothing here tells what for: no account of waiting, no stacks, no device",
                    figures(evidence)
                ),
                causes,
            ),
        }
    } else if evidence.figures.wal_fsync.kernel.count() < ENOUGH {
        let count = evidence.figures.wal_fsync.kernel.count();
        let reason = format!("{count} WAL syncs in the window, {ENOUGH} make a p99");
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

/// Gives each part of the lost time its name, the largest first; none if nothing can be named.
fn attribute(evidence: &Evidence, lost: &Lost) -> Vec<Attribution> {
    let (frozen_s, frozen) = storage::frozen(lost);
    let mut parts = vec![(frozen_s, frozen)];
    parts.extend(cpu::name(evidence, lost));
    let rest_s = lost.storage_s - frozen_s;
    match storage::name(evidence, lost) {
        // Both are orders to hold I/O back: one cause, told by what took longer.
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
        .filter(|cause| cause.share >= LEAST_SHARE)
        .collect();
    causes.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    causes
}

/// Names what is slow where the time lost was not measured: before the first scrapes, or on a kernel that keeps no account.
fn unmeasured(evidence: &Evidence, lost: &Lost) -> Option<Attribution> {
    let (verdict, reason) = if lost.in_kernel {
        storage::name(evidence, lost)?
    } else {
        let [starved, overhead] = cpu::name(evidence, lost).map(|(_, finding)| finding);
        if cpu::signs(evidence).is_empty() { overhead } else { starved }
    };
    Some(Attribution { verdict, seconds: 0.0, share: 1.0, reason })
}

/// Puts the figures, the first cause and the second into sentences.
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

/// Tells of the slow figures, or of both if none is slow.
fn figures(evidence: &Evidence) -> String {
    let is_told = |figure: &&Figure| is_slow(figure) || is_slow_in_etcd(figure);
    let mut told: Vec<_> = evidence.figures.iter().filter(is_told).collect();
    if told.is_empty() {
        told = evidence.figures.iter().collect();
    }
    told.into_iter().map(|figure| one_figure(figure, evidence)).collect::<Vec<_>>().join("; ")
}

fn one_figure(figure: &Figure, evidence: &Evidence) -> String {
    let p99 = figure.kernel.quantile(0.99).map_or_else(|| "unknown".to_owned(), time);
    let in_etcd = match figure.etcd_p99_above_s {
        Some(bound_s) if is_slow_in_etcd(figure) && !is_slow(figure) => {
            let mean =
                figure.overhead_s.map_or_else(String::new, |s| format!(", {} more on average", time(s)));
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

/// Returns how many events took longer than this; off by 1/32 of the bound at most.
fn longer_than(figure: &Figure, bound_s: f64) -> u64 {
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
