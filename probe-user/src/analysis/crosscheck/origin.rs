//! The sandwich: the number of etcd's observations that the kernel did not count.
//!
//! With S events entered, F finished and E counted by etcd, the origin O lies in
//! `E − F(after) ..= E − S(before) + sequences(before)` at every round. An event in flight from the reading
//! before to the reading after reduces that to a single value, and so does a quiet second.

use super::{KernelReading, Round, Start, signed};

/// The time without any event after which etcd has certainly observed every finished event: etcd's goroutine
/// runs between the return of its syscall and the observation, and waits for a CPU there if it is starved.
const QUIET_NS: u64 = 1_000_000_000;

/// The possible values of the origin, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) lo: i64,
    pub(super) hi: i64,
}

impl Interval {
    const fn exactly(value: i64) -> Self {
        Self { lo: value, hi: value }
    }

    pub(super) fn point(self) -> Option<i64> {
        (self.lo == self.hi).then_some(self.lo)
    }

    /// Returns the number of values minus one, `None` while there is no upper end.
    pub(super) fn width(self) -> Option<u64> {
        (self.hi < i64::MAX).then(|| self.lo.abs_diff(self.hi))
    }

    /// Returns the distance of `other` above (positive) or below (negative) `self`, 0 if they share a value.
    fn distance_to(self, other: Self) -> i64 {
        if other.lo > self.hi {
            other.lo.saturating_sub(self.hi)
        } else if other.hi < self.lo {
            other.hi.saturating_sub(self.lo)
        } else {
            0
        }
    }

    fn narrow(self, other: Self) -> Self {
        Self { lo: self.lo.max(other.lo), hi: self.hi.min(other.hi) }
    }
}

/// The time since which both sides are unchanged, and their counts.
#[derive(Debug, Clone, Copy)]
struct Standstill {
    since_ns: u64,
    finished: u64,
    counted: u64,
}

/// The result of one round for the origin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OriginStep {
    pub(super) quiet: bool,
    /// Set by a violation: the distance by which the apparent origin moved.
    pub(super) gap: Option<i64>,
}

/// The established origin, and the apparent origin since the last violation.
///
/// They are equal until a violation. From then on the established one stays, so that a lost event
/// remains visible, and the apparent one starts to narrow again.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    established: Interval,
    apparent: Interval,
    /// An event that entered before the probe attached may still be in flight, and is not in the kernel's
    /// counts.
    unseen: bool,
    /// The number of events that had entered at the first reading with a single sequence.
    entered_in_one: Option<u64>,
    standstill: Option<Standstill>,
    violations: u64,
}

impl Origin {
    pub(super) fn new(start: Start) -> Self {
        let (interval, unseen) = match start {
            Start::Observed => (Interval::exactly(0), false),
            Start::Missed => (Interval { lo: 0, hi: i64::MAX }, true),
        };
        Self {
            established: interval,
            apparent: interval,
            unseen,
            entered_in_one: None,
            standstill: None,
            violations: 0,
        }
    }

    pub(super) fn observe(&mut self, round: &Round) -> OriginStep {
        let counted = signed(round.etcd.count);
        let lo = counted.saturating_sub(signed(round.after.finished.count));
        let hi = counted
            .saturating_sub(signed(round.before.entered))
            .saturating_add(i64::from(round.before.sequences));
        let quiet = self.quiet(round);
        // More events entered than finished or can be in flight: the kernel lost returns, and F determines
        // the origin.
        let lost_returns = lo.saturating_sub(hi).max(0);
        let found = if quiet { Interval::exactly(lo) } else { Interval { lo, hi: hi.max(lo) } };

        let mut gap = self.apparent.distance_to(found);
        if gap == 0 && self.apparent != found {
            gap = lost_returns;
        }
        if gap != 0 {
            self.violations += 1;
            self.apparent = found;
        } else {
            self.apparent = self.apparent.narrow(found);
            if self.violations == 0 {
                self.established = self.apparent;
            }
        }
        OriginStep { quiet, gap: (gap != 0).then_some(gap) }
    }

    /// Returns whether both sides have been unchanged for long enough, with nothing in flight.
    ///
    /// The second lasts from the earliest unchanged reading to the start of this scrape: etcd may have read
    /// its counters at once and sent them slowly.
    fn quiet(&mut self, round: &Round) -> bool {
        let (before, after) = (&round.before, &round.after);
        let finished = after.finished.count;
        self.rule_out_unseen(before);
        // `>` and not `!=`: a probe that duplicates returns must not appear busy for ever. The standstill
        // need not be reset: when the event in flight returns, F grows and the second starts again.
        if after.entered > finished {
            return false;
        }
        let counted = round.etcd.count;
        let standstill = match self.standstill {
            Some(still) if still.finished == finished && still.counted == counted => still,
            _ => {
                let still_before = before.finished.count == finished;
                let since_ns = if still_before { before.at_ns } else { after.at_ns };
                Standstill { since_ns, finished, counted }
            }
        };
        self.standstill = Some(standstill);
        !self.unseen && before.at_ns.saturating_sub(standstill.since_ns) >= QUIET_NS
    }

    /// Concludes from an entry into the only sequence that an event in flight there at the attach has
    /// finished.
    ///
    /// A single sequence alone is not enough: the counted events may be from a backend that has closed, while
    /// a commit hangs in the other. Of two backends the older one closes first, and one that opens after the
    /// attach hides nothing.
    fn rule_out_unseen(&mut self, before: &KernelReading) {
        if before.sequences == 1 {
            let first = *self.entered_in_one.get_or_insert(before.entered);
            self.unseen &= before.entered <= first;
        }
    }

    pub(super) fn established(&self) -> Interval {
        self.established
    }

    pub(super) fn apparent(&self) -> Interval {
        self.apparent
    }

    pub(super) fn difference(&self) -> i64 {
        self.established.distance_to(self.apparent)
    }

    pub(super) fn violations(&self) -> u64 {
        self.violations
    }
}

#[cfg(test)]
mod tests;
