//! Reconciles the kernel's events with etcd's own counters, event by event.
//!
//! All functions are pure functions of kernel readings and scrapes; time is an argument. A [`Round`] is one
//! scrape of etcd between two readings of the kernel. [`Reconciliation`] follows one metric through one
//! incarnation of an etcd process, [`Ledger`] adds up the incarnations, so that counters survive a restart.
//!
//! ```text
//! Round ─▶ origin: how many of etcd's observations did the kernel not count?
//!             │   ─▶ sandwich, difference, uncertainty
//!             │ coherent: both sides hold the same set of events
//!             ▼
//!          dominance: is etcd at least as slow as the kernel, at every bound and in sum? ─▶ overhead
//! ```
//!
//! Why the sandwich holds: events of one sequence (the WAL, or one backend) occur one after the other, and
//! etcd observes event *i* before event *i + 1* enters. So of the events that entered before the scrape, at
//! most one per sequence is not observed, and etcd observes no event before it has finished in the kernel.

mod dominance;
mod overhead_estimate;
mod ledger;
mod origin;

pub use dominance::Breach;
pub use ledger::Ledger;
pub use overhead_estimate::estimate_overhead;

use dominance::Dominance;
use origin::Origin;

use super::disk_metric::BUCKETS;

/// One side's cumulative histogram at etcd's bounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observations {
    pub count: u64,
    pub sum_s: f64,
    /// Element `k` counts the observations of at most 1 ms × 2^k.
    pub at_most: [u64; BUCKETS],
}

#[cfg(test)]
impl Observations {
    /// Returns the histogram of these latencies, its sum added up in floating point as etcd does.
    fn of_latencies(latencies_ns: &[u64]) -> Self {
        let mut observations = Self::default();
        for &latency_ns in latencies_ns {
            observations.count += 1;
            observations.sum_s += latency_ns as f64 / 1e9;
            for bound in 0..BUCKETS {
                observations.at_most[bound] += u64::from(latency_ns <= 1_000_000 << bound);
            }
        }
        observations
    }
}

/// The kernel's counters at one instant.
///
/// The parts cannot be read at once, so the order matters: sum, then buckets, then `entered`. Then the
/// buckets contain every event of the sum, and `entered == finished.count` means that nothing was in flight.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KernelReading {
    /// `CLOCK_MONOTONIC`, taken after the parts were read and, for a reading before a scrape, before it
    /// begins.
    pub at_ns: u64,
    /// Events that entered since the probe attached, in flight or finished.
    pub entered: u64,
    /// The number of independent sequences of events: 1, or 2 while two backends exist.
    ///
    /// Counts existing sequences, even if the probe has recorded no event of them: too many is safe, too few
    /// is not.
    pub sequences: u32,
    pub finished: Observations,
}

/// One scrape between two readings of the kernel.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Round {
    pub before: KernelReading,
    pub etcd: Observations,
    pub after: KernelReading,
}

/// The knowledge about the origin at the start of an incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The probe was attached before the process started, so the kernel counts every event of the
    /// incarnation.
    Observed,
    /// The process started before the probe attached, so etcd's count at that time must be inferred.
    Missed,
}

/// An invariant of every round; a label of `crosscheck_violations_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// Violated if the kernel lost or duplicated events, or if the endpoint is not the traced process.
    Sandwich,
    /// Violated if the kernel measured a longer time than etcd, whose clock starts before the kernel's and
    /// stops after it.
    Dominance,
}

impl Invariant {
    pub const ALL: [Self; 2] = [Self::Sandwich, Self::Dominance];

    /// Returns the value of the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sandwich => "sandwich",
            Self::Dominance => "dominance",
        }
    }
}

/// The result of one round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Nothing happened for a second, so the origin is known exactly.
    pub quiet: bool,
    /// Both sides contain the same events.
    pub coherent: bool,
    /// A violation of the sandwich: the distance by which the apparent origin moved, positive if the kernel
    /// lost events.
    pub sandwich: Option<i64>,
    /// A violation of dominance, at its worst bound.
    pub dominance: Option<Breach>,
}

/// Follows one metric through one incarnation of etcd.
#[derive(Debug, Clone)]
pub struct Reconciliation {
    origin: Origin,
    dominance: Dominance,
    kernel_events: u64,
    etcd_events: u64,
    /// etcd's count in the last scrape.
    scraped: Option<u64>,
}

impl Reconciliation {
    pub fn new(start: Start) -> Self {
        Self {
            origin: Origin::new(start),
            dominance: Dominance::new(start),
            kernel_events: 0,
            etcd_events: 0,
            scraped: None,
        }
    }

    /// Adds one round. Rounds must be in the order of their scrapes and must not overlap.
    pub fn observe(&mut self, round: &Round) -> Outcome {
        let step = self.origin.observe(round);
        let counted = signed(round.etcd.count);
        let finished = signed(round.after.finished.count);
        // The observations unknown to the kernel plus all finished events: etcd has observed every event.
        let coherent = self.origin.apparent().point() == Some(counted.saturating_sub(finished));
        let dominance = self.dominance.observe(round, coherent);

        self.kernel_events = self.kernel_events.max(round.after.finished.count);
        let at_least = counted.saturating_sub(self.origin.established().hi);
        self.etcd_events = self.etcd_events.max(u64::try_from(at_least).unwrap_or(0));
        self.scraped = Some(round.etcd.count);
        Outcome { quiet: step.quiet, coherent, sandwich: step.gap, dominance }
    }

    /// Returns the number of events that etcd counted beyond the kernel's since the origin was established: 0
    /// if exact, positive if the kernel lost events, negative if it has too many. Remains until the
    /// incarnation ends.
    pub fn difference(&self) -> i64 {
        self.origin.difference()
    }

    /// Returns the number of values that the origin can still have, minus one: 0 if pinned, `None` before it
    /// is bounded.
    pub fn uncertainty(&self) -> Option<u64> {
        self.origin.established().width()
    }

    pub fn pinned(&self) -> bool {
        self.uncertainty() == Some(0)
    }

    pub fn violations(&self, invariant: Invariant) -> u64 {
        match invariant {
            Invariant::Sandwich => self.origin.violations(),
            Invariant::Dominance => self.dominance.violations(),
        }
    }

    /// Returns the worst violation of dominance so far.
    pub fn worst_breach(&self) -> Option<Breach> {
        self.dominance.worst()
    }

    /// Returns the time by which etcd's sum exceeds the kernel's, added up between coherent rounds.
    pub fn overhead_s(&self) -> f64 {
        self.dominance.overhead_s()
    }

    /// Returns the number of events of [`Self::overhead_s`].
    pub fn overhead_events(&self) -> u64 {
        self.dominance.overhead_events()
    }

    /// Estimates etcd's overhead per event in seconds, even if no round was coherent; see
    /// [`estimate_overhead`].
    ///
    /// Also returns `None` if the uncertainty of the origin exceeds a tenth of the events between the rounds.
    pub fn estimate_overhead(&self, earlier: &Round, later: &Round) -> Option<f64> {
        let apparent = self.origin.apparent();
        let uncertainty = apparent.width()?;
        let events = later.etcd.count.checked_sub(earlier.etcd.count)?;
        if uncertainty > events / 10 {
            return None;
        }
        estimate_overhead(i64::midpoint(apparent.lo, apparent.hi), earlier, later)
    }

    /// Returns the number of events that finished in the kernel.
    pub fn kernel_events(&self) -> u64 {
        self.kernel_events
    }

    /// Returns the number of etcd's observations of events that the kernel could count.
    ///
    /// Until the origin is pinned this is the minimum, so it never exceeds the exact value and never falls.
    pub fn etcd_events(&self) -> u64 {
        self.etcd_events
    }

    /// Returns the number of `last_finished` events that no scrape has verified, after the process has ended.
    pub fn unverified_at_end(&self, last_finished: u64) -> u64 {
        let verified = match (self.scraped, self.origin.established().point()) {
            (Some(counted), Some(origin)) => signed(counted).saturating_sub(origin),
            _ => 0,
        };
        last_finished.saturating_sub(u64::try_from(verified).unwrap_or(0))
    }
}

/// Converts a counter. A value that does not fit is invalid data from the endpoint, and remains far from any
/// real count.
fn signed(counter: u64) -> i64 {
    i64::try_from(counter).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
