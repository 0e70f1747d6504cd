//! Estimates etcd's overhead for reports if the load never pauses and no two rounds are coherent.

use super::{Round, signed};

/// The minimum number of events with a meaningful mean: with fewer, events that may be missing at the ends of
/// a window can outweigh the overhead. With a device that takes 100 ms, a window of seconds contains some
/// tens of events.
const EVENTS_MIN: u64 = 30;

/// With fewer events, an overhead is accepted if it exceeds the time of this many events of mean latency: one
/// at each end of the window, each twice as long as the mean.
const DOUBTFUL_EVENTS: f64 = 4.0;

/// Estimates the seconds per event by which etcd's latency exceeds the kernel's between two rounds.
///
/// etcd's sum at a scrape covers `E − origin` events. The kernel's sum of the same events lies between its
/// readings before and after, and is interpolated by count. That is exact if no event finished during the
/// scrape, or if etcd had observed all or none of the events that did. Otherwise the error at each end is at
/// most the number of finished and unobserved events, `F(after) − F(before) + sequences`, times the deviation
/// of their latency from their mean. The error of the result is both divided by the number of events, so it
/// may be slightly negative.
///
/// Returns `None` if it is in doubt because of fewer than 30 events, or if the counts of a round do not fit
/// the origin.
pub fn estimate_overhead(origin: i64, earlier: &Round, later: &Round) -> Option<f64> {
    let events = later.etcd.count.checked_sub(earlier.etcd.count)?;
    let (first, last) = (&earlier.before.finished, &later.after.finished);
    let finished = last.count.checked_sub(first.count)?;
    if events == 0 || finished == 0 {
        return None;
    }
    let mean_s = (last.sum_s - first.sum_s) / finished as f64;
    let kernel_s = observed_s(origin, later, mean_s)? - observed_s(origin, earlier, mean_s)?;
    let etcd_s = later.etcd.sum_s - earlier.etcd.sum_s;
    let overhead_s = etcd_s - kernel_s;
    let is_clear = events >= EVENTS_MIN || overhead_s > DOUBTFUL_EVENTS * mean_s;
    is_clear.then_some(overhead_s / events as f64)
}

/// Returns the kernel's sum of the events that etcd had observed; `mean_s` represents events before the
/// reading.
fn observed_s(origin: i64, round: &Round, mean_s: f64) -> Option<f64> {
    let (before, after) = (&round.before.finished, &round.after.finished);
    let beyond = signed(round.etcd.count).checked_sub(origin)?.checked_sub(signed(before.count))?;
    let during = signed(after.count).checked_sub(signed(before.count))?;
    if beyond > during || beyond < -i64::from(round.before.sequences) {
        return None;
    }
    let step_s = if beyond > 0 { (after.sum_s - before.sum_s) / during as f64 } else { mean_s };
    Some(before.sum_s + beyond as f64 * step_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::crosscheck::{KernelReading, Observations, Reconciliation, Start};

    /// Returns a round with `(count, sum)` before, of etcd, and after.
    fn round(before: (u64, f64), etcd: (u64, f64), after: (u64, f64)) -> Round {
        let observations = |(count, sum_s)| Observations { count, sum_s, ..Observations::default() };
        let reading = |finished: (u64, f64)| KernelReading {
            entered: finished.0,
            sequences: 1,
            finished: observations(finished),
            ..KernelReading::default()
        };
        Round { before: reading(before), etcd: observations(etcd), after: reading(after) }
    }

    #[test]
    fn overhead_is_the_time_of_etcd_beyond_the_kernel() {
        let start = round((0, 0.0), (7, 1.0), (0, 0.0));
        let cases = [
            (round((100, 2.0), (107, 4.0), (100, 2.0)), Some(0.01), "nothing happened during the scrape"),
            (
                round((100, 2.0), (107, 4.0), (150, 9.0)),
                Some(0.01),
                "etcd's values are from the start of the scrape",
            ),
            (round((50, 1.0), (107, 4.0), (100, 2.0)), Some(0.01), "from its end"),
            (round((90, 1.0), (107, 4.0), (110, 3.0)), Some(0.01), "in the middle: interpolated by count"),
            (
                round((101, 2.02), (107, 4.0), (101, 2.02)),
                Some(0.01),
                "one finished and not observed: it counts as the mean",
            ),
            (round((100, 4.0), (107, 4.0), (100, 4.0)), Some(-0.01), "an error is not hidden"),
            (round((102, 2.0), (107, 4.0), (102, 2.0)), None, "two unobserved events are impossible"),
            (round((90, 2.0), (107, 4.0), (99, 2.0)), None, "observed before it finished"),
            (round((29, 2.0), (36, 3.2), (29, 2.0)), None, "three events at the ends may explain all of it"),
            (round((30, 2.0), (37, 3.3), (30, 2.0)), Some(0.01), "with one more event any value counts"),
            (round((25, 1.6), (32, 4.8), (25, 1.6)), Some(0.088), "two events of 64 ms do not take 2.2 s"),
            (round((0, 0.0), (107, 4.0), (0, 0.0)), None, "the kernel counted nothing"),
            (round((100, 2.0), (6, 4.0), (100, 2.0)), None, "a counter fell"),
        ];
        for (later, expected, why) in cases {
            let estimate = estimate_overhead(7, &start, &later);
            let near = match (estimate, expected) {
                (Some(estimate), Some(expected)) => f64::abs(estimate - expected) < 1e-12,
                (estimate, expected) => estimate == expected,
            };
            assert!(near, "{why}: {estimate:?}");
        }
    }

    #[test]
    fn both_ends_are_interpolated() {
        // 5 of the 10 events that finished during the first scrape were observed: 0.7 s. Of the events that
        // had finished before the second scrape, all but one were observed, and the mean event takes 20 ms:
        // 2.58 s.
        let earlier = round((10, 0.5), (22, 1.0), (20, 0.9));
        let later = round((116, 2.6), (122, 3.88), (118, 2.66));
        let estimate = estimate_overhead(7, &earlier, &later).expect("both fit");
        assert!((estimate - 0.01).abs() < 1e-12, "{estimate}");
    }

    #[test]
    fn each_sequence_may_have_one_unobserved() {
        let start = round((0, 0.0), (7, 1.0), (0, 0.0));
        let mut later = round((102, 2.04), (107, 4.0), (102, 2.04));
        later.before.sequences = 2;
        let estimate = estimate_overhead(7, &start, &later).expect("one of each backend");
        assert!((estimate - 0.01).abs() < 1e-12, "{estimate}");
    }

    #[test]
    fn a_reconciliation_supplies_its_origin_unless_it_is_uncertain() {
        let mut reconciliation = Reconciliation::new(Start::Missed);
        let start = round((0, 0.0), (1007, 1.0), (0, 0.0));
        let end = round((100, 2.0), (1107, 4.0), (100, 2.0));
        assert_eq!(reconciliation.estimate_overhead(&start, &end), None, "no origin yet");
        reconciliation.observe(&round((15, 0.0), (1027, 1.0), (26, 2.0)));
        assert_eq!(reconciliation.uncertainty(), Some(12), "1001..=1013");
        assert_eq!(reconciliation.estimate_overhead(&start, &end), None, "12 is more than a tenth of 100");
        reconciliation.observe(&round((16, 0.0), (1027, 1.0), (25, 2.0)));
        assert_eq!(reconciliation.uncertainty(), Some(10), "1002..=1012");
        let estimate = reconciliation.estimate_overhead(&start, &end).expect("1007 fits");
        assert!((estimate - 0.01).abs() < 1e-12, "{estimate}");
    }
}
