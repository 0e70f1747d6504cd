//! Adds up the incarnations of one member, so that counters survive a restart of etcd and never fall.

use super::{Invariant, Outcome, Reconciliation, Round, Start};

/// Totals of the incarnations that have ended.
#[derive(Debug, Clone, Default)]
struct EndedTotals {
    sandwich: u64,
    dominance: u64,
    kernel_events: u64,
    etcd_events: u64,
    unverified: u64,
    overhead_s: f64,
    overhead_events: u64,
}

/// One metric of one member over all incarnations of its etcd process.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    totals: EndedTotals,
    current: Option<Reconciliation>,
}

impl Ledger {
    /// Starts an incarnation, and ends the previous one at its last round if it has not ended.
    pub fn begin(&mut self, start: Start) {
        self.end(0);
        self.current = Some(Reconciliation::new(start));
    }

    /// Adds one round; `None` without a current incarnation, since there is nothing to compare with.
    pub fn observe(&mut self, round: &Round) -> Option<Outcome> {
        self.current.as_mut().map(|current| current.observe(round))
    }

    /// Ends the incarnation after `last_finished` kernel events; events that no scrape has verified become
    /// unverified.
    pub fn end(&mut self, last_finished: u64) {
        let Some(ended) = self.current.take() else { return };
        // The last round may contain more events than a reading at the time the process ended.
        let last_finished = last_finished.max(ended.kernel_events());
        let totals = &mut self.totals;
        totals.sandwich += ended.violations(Invariant::Sandwich);
        totals.dominance += ended.violations(Invariant::Dominance);
        totals.kernel_events += last_finished;
        totals.etcd_events += ended.etcd_events();
        totals.unverified += ended.unverified_at_end(last_finished);
        totals.overhead_s += ended.overhead_s();
        totals.overhead_events += ended.overhead_events();
    }

    /// Returns the current incarnation.
    pub fn current(&self) -> Option<&Reconciliation> {
        self.current.as_ref()
    }

    /// Returns the difference of the current incarnation, 0 without one.
    pub fn difference(&self) -> i64 {
        self.current().map_or(0, Reconciliation::difference)
    }

    /// Returns the uncertainty of the current incarnation.
    pub fn uncertainty(&self) -> Option<u64> {
        self.current().and_then(Reconciliation::uncertainty)
    }

    pub fn violations(&self, invariant: Invariant) -> u64 {
        let totals = match invariant {
            Invariant::Sandwich => self.totals.sandwich,
            Invariant::Dominance => self.totals.dominance,
        };
        totals + self.current().map_or(0, |current| current.violations(invariant))
    }

    pub fn kernel_events(&self) -> u64 {
        self.totals.kernel_events + self.current().map_or(0, Reconciliation::kernel_events)
    }

    pub fn etcd_events(&self) -> u64 {
        self.totals.etcd_events + self.current().map_or(0, Reconciliation::etcd_events)
    }

    /// Returns the number of kernel events of ended incarnations that can no longer be verified.
    pub fn unverified(&self) -> u64 {
        self.totals.unverified
    }

    pub fn overhead_s(&self) -> f64 {
        self.totals.overhead_s + self.current().map_or(0.0, Reconciliation::overhead_s)
    }

    pub fn overhead_events(&self) -> u64 {
        self.totals.overhead_events + self.current().map_or(0, Reconciliation::overhead_events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::crosscheck::{KernelReading, Observations};

    const MS: u64 = 1_000_000;

    /// Returns a short scrape with nothing in flight: `finished` kernel events of 1 ms, `counted` by etcd of
    /// 2 ms.
    fn still(at_ms: u64, finished: usize, counted: usize) -> Round {
        let reading = |at_ms| KernelReading {
            at_ns: at_ms * MS,
            entered: finished as u64,
            sequences: 1,
            finished: Observations::of_latencies(&vec![MS; finished]),
        };
        Round {
            before: reading(at_ms),
            etcd: Observations::of_latencies(&vec![2 * MS; counted]),
            after: reading(at_ms + 1),
        }
    }

    #[test]
    fn unverified_events_are_counted_at_the_end() {
        use Start::{Missed, Observed};
        let cases: [(_, &[Round], _, _, &str); 8] = [
            (Observed, &[], 5, 5, "never scraped"),
            (Observed, &[still(0, 5, 5)], 5, 0, "all observed"),
            (Observed, &[still(0, 5, 5)], 9, 4, "four came after the last scrape"),
            (Observed, &[still(0, 5, 5)], 0, 0, "the last reading failed: the last round counts"),
            (Observed, &[still(0, 4, 5)], 4, 0, "etcd counted more: no fewer than none"),
            (Missed, &[still(0, 5, 105)], 9, 9, "never pinned"),
            (Missed, &[still(0, 4, 104), still(9, 5, 105), still(2000, 5, 105)], 9, 4, "pinned at 100"),
            (Observed, &[still(0, 5, 5), still(9, 6, 6)], 9, 3, "the last scrape counts"),
        ];
        for (start, rounds, last_finished, expected, why) in cases {
            let mut ledger = Ledger::default();
            ledger.begin(start);
            for round in rounds {
                ledger.observe(round);
            }
            assert_eq!(ledger.unverified(), 0, "not ended: {why}");
            ledger.end(last_finished);
            assert_eq!(ledger.unverified(), expected, "{why}");
        }
    }

    #[test]
    fn counters_add_up_over_incarnations() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.observe(&still(0, 1, 1)), None, "nothing to compare with");
        assert_eq!((ledger.difference(), ledger.uncertainty(), ledger.kernel_events()), (0, None, 0));
        for incarnation in 1..=3_u32 {
            ledger.begin(Start::Observed);
            ledger.observe(&still(0, 4, 4));
            ledger.observe(&still(9, 4, 5));
            assert_eq!(
                (ledger.difference(), ledger.uncertainty()),
                (1, Some(0)),
                "incarnation {incarnation}"
            );
            let incarnations = u64::from(incarnation);
            assert_eq!(ledger.violations(Invariant::Sandwich), incarnations, "incarnation {incarnation}");
            assert_eq!(
                ledger.violations(Invariant::Dominance),
                incarnations,
                "a lost event of 2 ms, incarnation {incarnation}"
            );
            assert_eq!(ledger.etcd_events(), 5 * incarnations, "incarnation {incarnation}");
            assert_eq!(
                ledger.kernel_events(),
                4 * incarnations + 2 * (incarnations - 1),
                "incarnation {incarnation}"
            );
            assert_eq!(ledger.overhead_events(), 4 * incarnations, "incarnation {incarnation}");
            assert!(
                (ledger.overhead_s() - 0.004 * f64::from(incarnation)).abs() < 1e-12,
                "incarnation {incarnation}"
            );
            ledger.end(6);
            assert_eq!(
                (ledger.difference(), ledger.uncertainty()),
                (0, None),
                "ended, incarnation {incarnation}"
            );
            assert_eq!(ledger.unverified(), incarnations, "6 finished, 5 scraped, incarnation {incarnation}");
            assert_eq!(ledger.kernel_events(), 6 * incarnations, "incarnation {incarnation}");
        }
    }

    #[test]
    fn a_start_ends_the_previous_incarnation() {
        let mut ledger = Ledger::default();
        ledger.begin(Start::Observed);
        ledger.observe(&still(0, 4, 4));
        ledger.begin(Start::Missed);
        assert_eq!((ledger.kernel_events(), ledger.etcd_events(), ledger.unverified()), (4, 4, 0));
        assert_eq!(ledger.uncertainty(), None, "of the new incarnation");
    }

    #[test]
    fn etcd_events_are_the_certain_minimum() {
        let mut ledger = Ledger::default();
        ledger.begin(Start::Missed);
        let cases = [
            (still(0, 0, 100), 0, "nothing counted"),
            (still(10, 3, 103), 2, "the origin is 100 or 101"),
            (still(2000, 3, 103), 3, "pinned"),
            (still(2010, 3, 0), 3, "a falling counter subtracts nothing"),
        ];
        for (round, expected, why) in cases {
            ledger.observe(&round);
            assert_eq!(ledger.etcd_events(), expected, "{why}");
        }
        let reset = Round {
            after: KernelReading { finished: Observations::default(), ..still(0, 0, 0).after },
            ..still(0, 0, 0)
        };
        ledger.observe(&reset);
        assert_eq!(ledger.kernel_events(), 3, "the same for the kernel's");
    }
}
