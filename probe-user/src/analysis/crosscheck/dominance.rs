//! Dominance: etcd's clock starts before the syscall and stops after it, so etcd's latency is never the
//! shorter one.
//!
//! At every bound the kernel has counted at least as many events: every event that etcd has observed has
//! finished in the kernel, with at most the same latency. Sums are comparable only if both sides contain the
//! same events, between coherent rounds. The growth of etcd's sum beyond the kernel's is time that etcd
//! counts as disk time and that passed outside the syscall.

use crate::analysis::disk_metric::BUCKETS;

use super::{Observations, Round, Start, signed};

/// Tolerated difference of two sums of floats, relative to the sums: etcd adds a rounded term per event.
const TOLERANCE: f64 = 1e-9;

/// How the kernel's latency was the longer one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Breach {
    /// The kernel has `missing` fewer events of at most 1 ms × 2^`bound` than etcd.
    Count { bound: usize, missing: u64 },
    /// The kernel's sum grew by this much more than etcd's.
    Sum { excess_s: f64 },
}

impl Breach {
    /// Returns whether it is worse than `other`. A count is worse than a sum, since rounding affects sums.
    fn exceeds(self, other: Self) -> bool {
        match (self, other) {
            (Self::Count { missing, .. }, Self::Count { missing: other, .. }) => missing > other,
            (Self::Sum { excess_s }, Self::Sum { excess_s: other }) => excess_s > other,
            (Self::Count { .. }, Self::Sum { .. }) => true,
            (Self::Sum { .. }, Self::Count { .. }) => false,
        }
    }
}

/// Both sides at a moment at which they contained the same events.
#[derive(Debug, Clone, Default)]
struct Baseline {
    kernel: Observations,
    etcd: Observations,
}

#[derive(Debug, Clone)]
pub(super) struct Dominance {
    /// Replaced at every coherent round, which makes the check stricter: old slack cannot hide a new breach.
    baseline: Option<Baseline>,
    violations: u64,
    worst: Option<Breach>,
    overhead_s: f64,
    overhead_events: u64,
}

impl Dominance {
    pub(super) fn new(start: Start) -> Self {
        let baseline = match start {
            Start::Observed => Some(Baseline::default()),
            Start::Missed => None,
        };
        Self { baseline, violations: 0, worst: None, overhead_s: 0.0, overhead_events: 0 }
    }

    /// Adds one round and returns its worst breach, which counts as one violation.
    pub(super) fn observe(&mut self, round: &Round, coherent: bool) -> Option<Breach> {
        let (kernel, etcd) = (&round.after.finished, &round.etcd);
        let breach = self.baseline.as_ref().and_then(|base| {
            let by_count = worst_bound(base, kernel, etcd);
            by_count.or_else(|| coherent.then(|| longer_sum(base, kernel, etcd)).flatten())
        });
        if let Some(found) = breach {
            self.violations += 1;
            if self.worst.is_none_or(|worst| found.exceeds(worst)) {
                self.worst = Some(found);
            }
        }
        if coherent {
            if let Some(base) = &self.baseline {
                let events = signed(etcd.count).saturating_sub(signed(base.etcd.count));
                let seen = signed(kernel.count).saturating_sub(signed(base.kernel.count));
                // The whole latency of a lost or duplicated event in between would count as overhead.
                if events == seen {
                    let (kernel_s, etcd_s) = grown_s(base, kernel, etcd);
                    self.overhead_s += (etcd_s - kernel_s).max(0.0);
                    self.overhead_events += u64::try_from(events).unwrap_or(0);
                }
            }
            self.baseline = Some(Baseline { kernel: kernel.clone(), etcd: etcd.clone() });
        }
        breach
    }

    pub(super) fn violations(&self) -> u64 {
        self.violations
    }

    pub(super) fn worst(&self) -> Option<Breach> {
        self.worst
    }

    pub(super) fn overhead_s(&self) -> f64 {
        self.overhead_s
    }

    pub(super) fn overhead_events(&self) -> u64 {
        self.overhead_events
    }
}

/// Returns the bound at which the kernel misses the most events; the lowest of equal ones.
fn worst_bound(base: &Baseline, kernel: &Observations, etcd: &Observations) -> Option<Breach> {
    let mut worst = (0, 0);
    for bound in 0..BUCKETS {
        let grown = |now: &Observations, then: &Observations| {
            signed(now.at_most[bound]).saturating_sub(signed(then.at_most[bound]))
        };
        let missing = grown(etcd, &base.etcd).saturating_sub(grown(kernel, &base.kernel));
        if missing > worst.1 {
            worst = (bound, missing);
        }
    }
    let missing = u64::try_from(worst.1).unwrap_or(0);
    (missing > 0).then_some(Breach::Count { bound: worst.0, missing })
}

/// Returns the breach if the kernel's sum grew by more than etcd's and more than rounding explains.
fn longer_sum(base: &Baseline, kernel: &Observations, etcd: &Observations) -> Option<Breach> {
    let (kernel_s, etcd_s) = grown_s(base, kernel, etcd);
    let excess_s = kernel_s - etcd_s;
    let rounding_s = TOLERANCE * kernel.sum_s.max(etcd.sum_s);
    (excess_s > rounding_s).then_some(Breach::Sum { excess_s })
}

/// Returns the growth of the sums since the baseline, the kernel's first.
fn grown_s(base: &Baseline, kernel: &Observations, etcd: &Observations) -> (f64, f64) {
    (kernel.sum_s - base.kernel.sum_s, etcd.sum_s - base.etcd.sum_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::crosscheck::KernelReading;

    const MS: u64 = 1_000_000;

    fn round(kernel_ns: &[u64], etcd_ns: &[u64]) -> Round {
        let after =
            KernelReading { finished: Observations::of_latencies(kernel_ns), ..KernelReading::default() };
        Round { etcd: Observations::of_latencies(etcd_ns), after, ..Round::default() }
    }

    #[test]
    fn etcd_is_never_faster_at_any_bound() {
        let count = |bound, missing| Some(Breach::Count { bound, missing });
        let cases: [(&[u64], &[u64], _, &str); 9] = [
            (&[], &[], None, "nothing happened"),
            (&[MS], &[MS], None, "equal latencies are no breach"),
            (&[MS / 2], &[9 * MS], None, "etcd slower"),
            (&[MS / 2, MS], &[MS], None, "etcd has not observed the last one yet"),
            (&[MS + 1], &[MS], count(0, 1), "the kernel past the first bound, etcd on it"),
            (&[8192 * MS + 1], &[8192 * MS], count(13, 1), "past the last bound"),
            (&[5 * MS, 5 * MS, 3 * MS], &[3 * MS, 4 * MS, MS], count(2, 2), "the worst bound is reported"),
            (&[9 * MS], &[MS], count(0, 1), "the lowest of equal bounds is reported"),
            (&[MS], &[MS, 2 * MS], count(1, 1), "an event that the kernel lost also violates dominance"),
        ];
        for (kernel, etcd, expected, why) in cases {
            let mut dominance = Dominance::new(Start::Observed);
            assert_eq!(dominance.observe(&round(kernel, etcd), false), expected, "{why}");
            assert_eq!(dominance.violations(), u64::from(expected.is_some()), "{why}");
            assert_eq!(dominance.worst(), expected, "{why}");
        }
    }

    #[test]
    fn sums_compare_at_coherent_rounds_only() {
        let (kernel, etcd) = ([600_000, 600_000], [600_000, 500_000]);
        let mut dominance = Dominance::new(Start::Observed);
        assert_eq!(dominance.observe(&round(&kernel, &etcd), false), None, "not the same events");
        let breach = dominance.observe(&round(&kernel, &etcd), true);
        let Some(Breach::Sum { excess_s }) = breach else { panic!("0.1 ms too long: {breach:?}") };
        assert!((excess_s - 1e-4).abs() < 1e-9, "{excess_s}");
        assert_eq!(
            dominance.observe(&round(&kernel, &etcd), true),
            None,
            "reported once: the baseline was replaced"
        );
        assert_eq!((dominance.violations(), dominance.worst()), (1, breach));
    }

    #[test]
    fn rounding_is_no_breach() {
        let cases = [
            (1.0, 1.0 + 0.9e-9, false, "within the tolerance of the sum"),
            (1.0, 1.0 + 1.1e-9, true, "beyond it"),
            (1e6, 1e6 + 0.9e-3, false, "the tolerance grows with the sum"),
            (1e6, 1e6 + 1.1e-3, true, "and ends there"),
        ];
        for (etcd_s, kernel_s, breached, why) in cases {
            let mut round = round(&[], &[]);
            (round.after.finished.sum_s, round.etcd.sum_s) = (kernel_s, etcd_s);
            let breach = Dominance::new(Start::Observed).observe(&round, true);
            assert_eq!(breach.is_some(), breached, "{why}");
        }
    }

    #[test]
    fn the_larger_sum_determines_the_tolerance() {
        let mut dominance = Dominance::new(Start::Missed);
        let mut round = round(&[], &[]);
        (round.after.finished.sum_s, round.etcd.sum_s) = (0.0, 1e6);
        dominance.observe(&round, true);
        (round.after.finished.sum_s, round.etcd.sum_s) = (1.0 + 0.9e-3, 1e6 + 1.0);
        assert_eq!(dominance.observe(&round, true), None, "etcd had counted long before the probe attached");
    }

    #[test]
    fn a_missed_start_compares_from_the_first_coherent_round() {
        let mut dominance = Dominance::new(Start::Missed);
        let history = [3 * MS, 3 * MS];
        assert_eq!(dominance.observe(&round(&[], &history), false), None, "no baseline");
        assert_eq!(dominance.observe(&round(&[], &history), true), None, "this is the baseline");
        assert!(dominance.overhead_s().abs() < f64::EPSILON, "time before the baseline is not overhead");
        let faster = round(&[4 * MS + 1], &[3 * MS, 3 * MS, 4 * MS]);
        assert_eq!(dominance.observe(&faster, false), Some(Breach::Count { bound: 2, missing: 1 }));
        assert_eq!(
            dominance.observe(&faster, false),
            Some(Breach::Count { bound: 2, missing: 1 }),
            "once per round"
        );
        assert_eq!(dominance.violations(), 2);
    }

    #[test]
    fn a_new_baseline_leaves_no_slack() {
        let mut dominance = Dominance::new(Start::Observed);
        assert_eq!(
            dominance.observe(&round(&[MS], &[9 * MS]), true),
            None,
            "etcd slower: slack of one at 1 ms"
        );
        let breach = dominance.observe(&round(&[MS, 2 * MS], &[9 * MS, MS]), true);
        assert_eq!(breach, Some(Breach::Count { bound: 0, missing: 1 }), "the slack cannot hide it");
    }

    #[test]
    fn the_worst_breach_is_kept() {
        let mut dominance = Dominance::new(Start::Observed);
        let sum = dominance.observe(&round(&[900_000], &[800_000]), true);
        assert_eq!(dominance.worst(), sum, "the first");
        dominance.observe(&round(&[900_000, 900_000], &[800_000, 700_000]), true);
        assert_ne!(dominance.worst(), sum, "a longer sum");
        let longest = dominance.worst();
        dominance.observe(&round(&[900_000, 900_000, 900_000], &[800_000, 700_000, 850_000]), true);
        assert_eq!(dominance.worst(), longest, "a shorter one");
        dominance.observe(&round(&[3 * MS; 5], &[MS; 5]), false);
        let count = dominance.worst();
        assert!(matches!(count, Some(Breach::Count { .. })), "a count is worse than a sum");
        dominance.observe(&round(&[5 * MS; 5], &[3 * MS; 5]), false);
        assert_eq!(dominance.worst(), count, "another bound that misses as many is not worse");
        dominance.observe(&round(&[900_000; 5], &[700_000; 5]), true);
        assert_eq!(dominance.worst(), count, "a sum is not worse than a count");
    }

    #[test]
    fn overhead_grows_between_coherent_rounds() {
        let mut dominance = Dominance::new(Start::Observed);
        let cases: [(&[u64], &[u64], _, _, _, &str); 5] = [
            (&[MS, MS], &[2 * MS], false, 0.0, 0, "not coherent"),
            (&[MS, MS], &[2 * MS, 4 * MS], true, 0.004, 2, "1 ms and 3 ms"),
            (&[MS, MS, MS], &[2 * MS, 4 * MS, 2 * MS], true, 0.005, 3, "1 ms more"),
            (
                &[MS, MS, MS],
                &[2 * MS, 4 * MS, 2 * MS, 700 * MS],
                true,
                0.005,
                3,
                "a lost event is not overhead",
            ),
            (
                &[MS, MS, MS, 700 * MS],
                &[2 * MS, 4 * MS, 2 * MS, 700 * MS, 600 * MS],
                true,
                0.005,
                4,
                "overhead never falls",
            ),
        ];
        for (kernel, etcd, coherent, overhead_s, events, why) in cases {
            dominance.observe(&round(kernel, etcd), coherent);
            assert!((dominance.overhead_s() - overhead_s).abs() < 1e-12, "{why}: {}", dominance.overhead_s());
            assert_eq!(dominance.overhead_events(), events, "{why}");
        }
    }
}
