//! The sandwich: how many of etcd's observations did the kernel not see?
//!
//! With S events entered, F finished and E counted by etcd, the origin O lies in
//! `E − F(after) ..= E − S(before) + sequences(before)` at every round. An event in flight from the reading
//! before to the one after makes that a single value, and so does a quiet second.

use super::{KernelReading, Round, Start, signed};

/// How long nothing may happen until whatever finished has surely been observed: etcd's goroutine runs
/// between the return of its syscall and the observation, and a starved one waits for a CPU there.
const QUIET_NS: u64 = 1_000_000_000;

/// The values the origin can have, both ends included.
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

    /// Returns how many values there are besides one, `None` while there is no upper end.
    pub(super) fn width(self) -> Option<u64> {
        (self.hi < i64::MAX).then(|| self.lo.abs_diff(self.hi))
    }

    /// Returns how far `other` lies above (positive) or below (negative) `self`, 0 if they share a value.
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

/// Since when both sides stand still, and at which counts.
#[derive(Debug, Clone, Copy)]
struct Standstill {
    since_ns: u64,
    finished: u64,
    counted: u64,
}

/// What one round told about the origin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) quiet: bool,
    /// Set by a violation: how far the apparent origin jumped.
    pub(super) gap: Option<i64>,
}

/// The origin as it was established, and as it appears since the last violation.
///
/// They are the same until a violation. From then on the established one stays, so that a lost event
/// remains visible, and the apparent one narrows from anew.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    established: Interval,
    apparent: Interval,
    /// An event that entered before the probe attached may still be in flight, unknown to the kernel's counts.
    unseen: bool,
    /// How many events had entered at the first reading with a single sequence.
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

    pub(super) fn observe(&mut self, round: &Round) -> Step {
        let counted = signed(round.etcd.count);
        let lo = counted.saturating_sub(signed(round.after.finished.count));
        let hi = counted
            .saturating_sub(signed(round.before.entered))
            .saturating_add(i64::from(round.before.sequences));
        let quiet = self.quiet(round);
        // More events entered than finished or can be in flight: the kernel lost returns, and F tells the origin.
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
        Step { quiet, gap: (gap != 0).then_some(gap) }
    }

    /// Tells whether both sides have stood still for long enough, with nothing in flight.
    ///
    /// The second runs from the earliest reading known to be still to the start of this scrape: etcd may
    /// have taken its figures at once and sent them slowly.
    fn quiet(&mut self, round: &Round) -> bool {
        let (before, after) = (&round.before, &round.after);
        let finished = after.finished.count;
        self.rule_out_unseen(before);
        // `>` and not `!=`: a probe that doubles returns must not look busy for ever. No need to forget the
        // standstill: when the event in flight returns F grows, and the second starts anew.
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

    /// Tells from an entry into the only sequence that whatever was in flight there at the attach is done.
    ///
    /// One sequence is not enough: the events seen may be of a backend that closed, while a commit hangs in
    /// the other. Of two backends the older closes first, and one that opens after the attach hides nothing.
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
