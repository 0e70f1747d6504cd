//! Reconciles the kernel's events with etcd's own counters, event by event.
//!
//! Everything here is a pure function of kernel readings and scrapes; time is an argument. A [`Round`] is one
//! scrape of etcd between two readings of the kernel. [`Reconciliation`] follows one metric through one life
//! of an etcd process, [`Ledger`] adds up the lives, so that counters outlive a restart.
//!
//! ```text
//! Round ─▶ origin: how many of etcd's observations did the kernel not see? ─▶ sandwich, difference, uncertainty
//!             │ coherent: both sides hold the same set of events
//!             ▼
//!          dominance: is etcd at least as slow as the kernel, at every bound and in sum? ─▶ overhead
//! ```
//!
//! Why the sandwich holds: events of one sequence (the WAL, or one backend) come one after the other, and
//! etcd observes event *i* before event *i + 1* enters. So of the events that entered before the scrape at
//! most one a sequence is not observed, and no event is observed before the kernel saw it finish.

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

/// What the kernel knows at one instant.
///
/// The parts cannot be read at once, so the order matters: sum, then buckets, then `entered`. Then whatever
/// the sum holds the buckets hold too, and `entered == finished.count` means that nothing was in flight.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KernelReading {
    /// `CLOCK_MONOTONIC`, taken after the parts were read and, for a reading before a scrape, before it begins.
    pub at_ns: u64,
    /// Events that entered since the probe attached, in flight or finished.
    pub entered: u64,
    /// How many sequences of events run independently: 1, or 2 while two backends exist.
    ///
    /// Counts the sequences that exist, not those the probe has seen: too many is safe, too few is not.
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

/// What is known of the origin as an incarnation starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The probe was attached before the process started, so every event of its life is known.
    Observed,
    /// The process lived before the probe came: how much etcd had counted by then must be inferred.
    Missed,
}

/// What must hold at every round; a label of `crosscheck_violations_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// The kernel lost or doubled events, or the endpoint is not the process that is traced.
    Sandwich,
    /// The kernel measured longer than etcd, whose clock starts before the kernel's and stops after it.
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

/// What one round told.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Nothing happened for a second, so the origin is known exactly.
    pub quiet: bool,
    /// Both sides hold the very same events.
    pub coherent: bool,
    /// A violation of the sandwich: how far the apparent origin moved, positive if the kernel lost events.
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

    /// Takes in one round. Rounds come in the order of their scrapes and do not overlap.
    pub fn observe(&mut self, round: &Round) -> Outcome {
        let step = self.origin.observe(round);
        let counted = signed(round.etcd.count);
        let finished = signed(round.after.finished.count);
        // Every observation the kernel did not see plus every finished event: nothing is left to be observed.
        let coherent = self.origin.apparent().point() == Some(counted.saturating_sub(finished));
        let dominance = self.dominance.observe(round, coherent);

        self.kernel_events = self.kernel_events.max(round.after.finished.count);
        let surely = counted.saturating_sub(self.origin.established().hi);
        self.etcd_events = self.etcd_events.max(u64::try_from(surely).unwrap_or(0));
        self.scraped = Some(round.etcd.count);
        Outcome { quiet: step.quiet, coherent, sandwich: step.gap, dominance }
    }

    /// Returns how many events etcd counted beyond the kernel's since the origin was established: 0 if exact,
    /// positive if the kernel lost events, negative if it has too many. Stays for the life of the incarnation.
    pub fn difference(&self) -> i64 {
        self.origin.difference()
    }

    /// Returns how many values the origin can still have, less one: 0 when pinned, `None` before it is bounded.
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

    /// Returns what etcd's sum holds beyond the kernel's, added up between coherent rounds.
    pub fn overhead_s(&self) -> f64 {
        self.dominance.overhead_s()
    }

    /// Returns how many events [`Self::overhead_s`] is spread over.
    pub fn overhead_events(&self) -> u64 {
        self.dominance.overhead_events()
    }

    /// Estimates etcd's overhead per event in seconds, also when no round was coherent; see [`estimate_overhead`].
    ///
    /// `None` too if the origin is vaguer than a tenth of the events in between.
    pub fn estimate_overhead(&self, earlier: &Round, later: &Round) -> Option<f64> {
        let apparent = self.origin.apparent();
        let vague = apparent.width()?;
        let events = later.etcd.count.checked_sub(earlier.etcd.count)?;
        if vague > events / 10 {
            return None;
        }
        estimate_overhead(i64::midpoint(apparent.lo, apparent.hi), earlier, later)
    }

    /// Returns the events that the kernel saw finish.
    pub fn kernel_events(&self) -> u64 {
        self.kernel_events
    }

    /// Returns how many of etcd's observations are of events that the kernel could see.
    ///
    /// Until the origin is pinned this is the least that it can be, so it neither exceeds the truth nor falls.
    pub fn etcd_events(&self) -> u64 {
        self.etcd_events
    }

    /// Returns how many of `last_finished` events no scrape has verified, now that the process is gone.
    pub fn unverified_at_end(&self, last_finished: u64) -> u64 {
        let verified = match (self.scraped, self.origin.established().point()) {
            (Some(counted), Some(origin)) => signed(counted).saturating_sub(origin),
            _ => 0,
        };
        last_finished.saturating_sub(u64::try_from(verified).unwrap_or(0))
    }
}

/// Converts a counter; one that does not fit is nonsense from the endpoint, and stays far from every truth.
fn signed(counter: u64) -> i64 {
    i64::try_from(counter).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
