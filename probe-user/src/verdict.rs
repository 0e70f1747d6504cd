//! What the numbers of a window mean: a pure function from evidence to one word of a closed set, with its reason.

use crate::latency::Latencies;

/// The answer to "is etcd's disk slow?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Syncs are as fast as they should be, and every one of them was seen.
    Healthy,
    /// Syncs are slow inside the kernel. Which part of it is not told apart yet.
    Unattributed,
    /// Syncs are fast in the kernel and slow in etcd's own figures: the time passes outside the system call.
    EtcdOverhead,
    /// An operation has been in flight for longer than the limit, now.
    Stalled,
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
    pub const ALL: [Self; 8] = [
        Self::Healthy,
        Self::Unattributed,
        Self::EtcdOverhead,
        Self::Stalled,
        Self::FsyncDisabled,
        Self::TooFewSamples,
        Self::EndpointMismatch,
        Self::Blind,
    ];

    /// Returns the value of the label `verdict`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unattributed => "unattributed",
            Self::EtcdOverhead => "etcd_overhead",
            Self::Stalled => "stalled",
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
            Self::Unattributed | Self::EtcdOverhead | Self::Stalled | Self::FsyncDisabled => 1,
            Self::TooFewSamples | Self::EndpointMismatch | Self::Blind => 2,
        }
    }
}

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

/// What is known of one of the two figures in a window.
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
    /// Events that only one side counted; 0 if exact.
    pub difference: i64,
}

/// All that the verdict rests on.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// Why the probe's self-test failed, if it did.
    pub blindness: Option<&'a str>,
    pub scraped: Scraped,
    pub fsync_disabled: bool,
    pub in_flight_s: f64,
    pub stall_limit_s: f64,
    /// How often the kernel did not run a program of ours; so many events can differ for a known reason.
    pub skipped_runs: u64,
    pub figures: [Figure<'a>; 2],
}

/// A verdict and the sentence that gives its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub reason: String,
}

/// Fewer events than these have no p99.
const ENOUGH: u64 = 100;

/// With this many of etcd's events and none of the kernel's, the probe is blind.
const CLEARLY_ALIVE: u64 = 5;

/// Judges a window.
pub fn judge(evidence: &Evidence) -> Judgement {
    let stalled = evidence.in_flight_s > evidence.stall_limit_s;
    let (verdict, reason) = if let Some(failure) = evidence.blindness {
        // First of all: an operation whose end was not seen seems to be in flight for ever.
        (Verdict::Blind, failure.to_owned())
    } else if stalled {
        (Verdict::Stalled, format!("an operation has been in flight for {}", time(evidence.in_flight_s)))
    } else if let Some(reason) = blindness(evidence) {
        reason
    } else if evidence.fsync_disabled {
        (Verdict::FsyncDisabled, "etcd runs with --unsafe-no-fsync: nothing it writes is durable".to_owned())
    } else if let Some(figure) = evidence.figures.iter().find(|figure| is_slow(figure)) {
        let p99 = figure.kernel.quantile(0.99).unwrap_or_default();
        let limit = time(figure.limit_s);
        (Verdict::Unattributed, format!("{} p99 is {} in the kernel, limit {limit}", figure.name, time(p99)))
    } else if let Some(reason) = evidence.figures.iter().find_map(overhead) {
        (Verdict::EtcdOverhead, reason)
    } else if let [wal, _] = &evidence.figures
        && wal.kernel.count() < ENOUGH
    {
        let count = wal.kernel.count();
        (Verdict::TooFewSamples, format!("{count} WAL syncs in the window, {ENOUGH} make a p99"))
    } else {
        let parts = evidence.figures.each_ref().map(|figure| {
            let p99 = figure.kernel.quantile(0.99).map_or_else(|| "none".to_owned(), time);
            format!("{} p99 {p99}, limit {}", figure.name, time(figure.limit_s))
        });
        (Verdict::Healthy, parts.join("; "))
    };
    Judgement { verdict, reason }
}

/// Returns why nothing can be claimed, if so.
fn blindness(evidence: &Evidence) -> Option<(Verdict, String)> {
    let blind = |reason: String| Some((Verdict::Blind, reason));
    match &evidence.scraped {
        Scraped::OtherProcess => {
            let reason =
                "the endpoint's process_start_time_seconds is not that of the traced process".to_owned();
            return Some((Verdict::EndpointMismatch, reason));
        }
        Scraped::Failed(reason) => return blind(format!("cannot cross-check: {reason}")),
        Scraped::NotYet => return blind("cannot cross-check: etcd has not been scraped yet".to_owned()),
        Scraped::Yes => {}
    }
    evidence.figures.iter().find_map(|figure| {
        if figure.difference.unsigned_abs() > evidence.skipped_runs {
            blind(format!("{}: {} events counted by one side only", figure.name, figure.difference.abs()))
        } else if figure.kernel.count() == 0 && figure.etcd_count >= CLEARLY_ALIVE {
            blind(format!("{}: etcd counted {} events, the kernel none", figure.name, figure.etcd_count))
        } else {
            None
        }
    })
}

/// Few samples suffice to call it slow if most of them are.
fn is_slow(figure: &Figure) -> bool {
    let above = |q| figure.kernel.quantile(q).is_some_and(|latency_s| latency_s > figure.limit_s);
    if figure.kernel.count() >= ENOUGH {
        above(0.99)
    } else {
        figure.kernel.count() >= CLEARLY_ALIVE && above(0.5)
    }
}

fn overhead(figure: &Figure) -> Option<String> {
    let etcd_s = figure.etcd_p99_above_s.filter(|bound_s| *bound_s >= figure.limit_s)?;
    let kernel = figure.kernel.quantile(0.99).map_or_else(|| "unknown".to_owned(), time);
    let mean =
        figure.overhead_s.map_or_else(String::new, |mean_s| format!(", {} more on average", time(mean_s)));
    let name = figure.name;
    Some(format!("{name} p99 is above {} in etcd and {kernel} in the kernel{mean}", time(etcd_s)))
}

/// Returns a time as people say it: three digits and a unit.
pub fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let digits = if value >= 100.0 { 0 } else { usize::from(value < 10.0) + 1 };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(each_ns: u64, count: u64) -> Latencies {
        let mut all = Latencies::default();
        (0..count).for_each(|_| all.record(each_ns));
        all
    }

    fn figure<'a>(name: &'static str, limit_s: f64, kernel: &'a Latencies) -> Figure<'a> {
        let etcd_count = kernel.count();
        Figure { name, limit_s, kernel, etcd_count, etcd_p99_above_s: None, overhead_s: None, difference: 0 }
    }

    type Change = fn(&mut Evidence);

    #[test]
    fn evidence_decides() {
        let fast = latencies(1_000_000, 500);
        let slow = latencies(40_000_000, 500);
        let few = latencies(1_000_000, 3);
        let few_slow = latencies(40_000_000, 20);
        let none = latencies(0, 0);
        let cases: [(&Latencies, Change, Verdict, &str); 14] = [
            (&fast, |_| {}, Verdict::Healthy, "fast and exact"),
            (&slow, |_| {}, Verdict::Unattributed, "slow in the kernel"),
            (&few, |_| {}, Verdict::TooFewSamples, "three syncs say nothing"),
            (&few_slow, |_| {}, Verdict::Unattributed, "twenty slow ones do"),
            (&fast, |e| e.in_flight_s = 2.0, Verdict::Stalled, "one hangs while the others were fast"),
            (
                &fast,
                |e| (e.blindness, e.in_flight_s) = (Some("no event arrived"), 9.0),
                Verdict::Blind,
                "a hook is gone, and with it the end of an operation",
            ),
            (&fast, |e| e.scraped = Scraped::Failed("refused".into()), Verdict::Blind, "not cross-checked"),
            (
                &fast,
                |e| e.scraped = Scraped::OtherProcess,
                Verdict::EndpointMismatch,
                "another etcd's endpoint",
            ),
            (&fast, |e| e.figures[1].difference = -1, Verdict::Blind, "an event too many"),
            (
                &fast,
                |e| (e.figures[1].difference, e.skipped_runs) = (-1, 1),
                Verdict::Healthy,
                "one event is lacking, and the kernel says why",
            ),
            (&none, |e| e.figures[0].etcd_count = 50, Verdict::Blind, "etcd syncs and the kernel sees none"),
            (&fast, |e| e.fsync_disabled = true, Verdict::FsyncDisabled, "fast, since nothing is synced"),
            (
                &fast,
                |e| e.figures[0].etcd_p99_above_s = Some(0.016),
                Verdict::EtcdOverhead,
                "slow only in etcd",
            ),
            (
                &fast,
                |e| e.figures[0].etcd_p99_above_s = Some(0.008),
                Verdict::Healthy,
                "8 ms is not above 10 ms",
            ),
        ];
        for (wal, change, expected, why) in cases {
            let figures = [figure("WAL fsync", 0.010, wal), figure("backend commit", 0.025, &fast)];
            let mut evidence = Evidence {
                blindness: None,
                scraped: Scraped::Yes,
                fsync_disabled: false,
                in_flight_s: 0.0,
                stall_limit_s: 1.0,
                skipped_runs: 0,
                figures,
            };
            change(&mut evidence);
            let judgement = judge(&evidence);
            assert_eq!(judgement.verdict, expected, "{why}: {}", judgement.reason);
        }
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let cases = [
            (0.0, "0 µs"),
            (0.000_012_3, "12.3 µs"),
            (0.001, "1 ms"),
            (0.010, "10 ms"),
            (0.002_346, "2.35 ms"),
            (0.123_4, "123 ms"),
            (1.5, "1.5 s"),
            (100.0, "100 s"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(time(seconds), expected);
        }
    }
}
