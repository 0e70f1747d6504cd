//! Tables of rounds and the origin that follows from them.

use super::*;
use crate::analysis::crosscheck::Observations;

/// `(at, entered, finished)` before, etcd's count, and the same after; `at` in milliseconds.
type Row = ((u64, u64, u64), u64, (u64, u64, u64));

fn round((before, counted, after): Row, sequences: u32) -> Round {
    let observations = |count| Observations { count, ..Observations::default() };
    let reading = |(at_ms, entered, finished): (u64, u64, u64)| KernelReading {
        at_ns: at_ms * 1_000_000,
        entered,
        sequences,
        finished: observations(finished),
    };
    Round { before: reading(before), etcd: observations(counted), after: reading(after) }
}

fn origin_after(start: Start, sequences: u32, rows: &[Row]) -> (Origin, Vec<OriginStep>) {
    let mut origin = Origin::new(start);
    let steps = rows.iter().map(|&row| origin.observe(&round(row, sequences))).collect();
    (origin, steps)
}

/// An earlier round, so that an entry into the only sequence is visible; it leaves 99 to 101.
const EARLIER: Row = ((0, 3, 3), 103, (0, 4, 4));

#[test]
fn rounds_narrow_the_origin() {
    use Start::{Missed, Observed};
    let cases: [(_, _, &[Row], _, _); 17] = [
        (Observed, 1, &[], (0, 0), "known from the start"),
        (Missed, 1, &[], (0, i64::MAX), "unknown before the first scrape"),
        (Missed, 1, &[((0, 0, 0), 7, (1, 0, 0))], (7, 8), "an event may have been in flight at the attach"),
        (
            Missed,
            1,
            &[((0, 5, 4), 104, (1, 5, 4))],
            (100, 100),
            "one event in flight from t0 to t1 leaves one value",
        ),
        (Missed, 2, &[((0, 5, 4), 104, (1, 5, 4))], (100, 101), "with two sequences it leaves two values"),
        (Missed, 2, &[((0, 6, 4), 104, (1, 6, 4))], (100, 100), "with one in flight in each it leaves one"),
        (Missed, 1, &[((0, 5, 5), 105, (1, 5, 5))], (100, 101), "the last one may not be observed yet"),
        (Missed, 1, &[((0, 5, 5), 105, (1, 9, 9))], (96, 101), "events during the scrape widen it"),
        (Missed, 1, &[((0, 5, 5), 4, (1, 9, 9))], (0, 0), "no origin is negative, so this is 0"),
        (
            Missed,
            1,
            &[((0, 5, 5), 105, (1, 9, 9)), ((2, 9, 9), 106, (3, 10, 9))],
            (97, 98),
            "rounds intersect: 96..=101 and 97..=98",
        ),
        (
            Missed,
            1,
            &[EARLIER, ((0, 5, 5), 105, (1, 5, 5)), ((1000, 5, 5), 105, (1001, 5, 5))],
            (100, 100),
            "a second without a change pins it",
        ),
        (
            Missed,
            1,
            &[EARLIER, ((0, 5, 5), 105, (1, 5, 5)), ((999, 5, 5), 105, (2000, 5, 5))],
            (100, 101),
            "the figures may be from the start of a slow scrape, which is too early",
        ),
        (
            Missed,
            1,
            &[EARLIER, ((0, 5, 4), 104, (1, 5, 5)), ((1000, 5, 5), 104, (1001, 5, 5))],
            (99, 100),
            "still since the reading after only: 999 ms",
        ),
        (
            Missed,
            1,
            &[
                EARLIER,
                ((0, 5, 5), 105, (1, 5, 5)),
                ((600, 5, 5), 105, (601, 5, 5)),
                ((1200, 5, 5), 105, (1201, 5, 5)),
            ],
            (100, 100),
            "rounds closer than a second add up",
        ),
        (
            Missed,
            1,
            &[((0, 0, 0), 7, (1, 0, 0)), ((9000, 0, 0), 7, (9001, 0, 0))],
            (7, 8),
            "a sync that hangs since before the attach looks like a pause",
        ),
        (
            Missed,
            2,
            &[EARLIER, ((0, 5, 5), 105, (1, 5, 5)), ((9000, 5, 5), 105, (9001, 5, 5))],
            (100, 102),
            "it may hang in the other backend",
        ),
        (
            Missed,
            1,
            &[((0, 5, 5), 105, (1, 5, 5)), ((9000, 5, 5), 105, (9001, 5, 5))],
            (100, 101),
            "or in this one: nothing entered since the first reading",
        ),
    ];
    for (start, sequences, rows, (lo, hi), why) in cases {
        let (origin, steps) = origin_after(start, sequences, rows);
        assert_eq!(origin.established(), Interval { lo, hi }, "{why}");
        assert_eq!(origin.apparent(), Interval { lo, hi }, "{why}");
        assert!(steps.iter().all(|step| step.gap.is_none()), "{why}");
        assert_eq!((origin.violations(), origin.difference()), (0, 0), "{why}");
    }
}

#[test]
fn an_unseen_event_may_hang_in_the_backend_that_stays() {
    let rounds = [
        (
            round(((0, 2, 1), 100, (1, 2, 1)), 2),
            (99, 100),
            "two backends, one finished commit, one in flight",
        ),
        (round(((2, 2, 2), 101, (3, 2, 2)), 1), (99, 100), "one closes"),
        (
            round(((5000, 2, 2), 101, (5001, 2, 2)), 1),
            (99, 100),
            "the hanging commit in the other is still unknown",
        ),
        (round(((5010, 3, 3), 103, (5011, 3, 3)), 1), (100, 100), "it has finished once the next one enters"),
    ];
    let mut origin = Origin::new(Start::Missed);
    for (round, (lo, hi), why) in rounds {
        origin.observe(&round);
        assert_eq!(origin.established(), Interval { lo, hi }, "{why}");
        assert_eq!(origin.violations(), 0, "{why}");
    }
}

#[test]
fn quiet_needs_a_standstill_on_both_sides() {
    let still = ((0, 5, 5), 5, (1, 5, 5));
    let cases: [(&[Row], bool, &str); 9] = [
        (
            &[((0, 0, 0), 0, (1, 0, 0)), ((1000, 0, 0), 0, (1001, 0, 0))],
            true,
            "observed from the start: no event is unknown",
        ),
        (&[still], false, "one scrape"),
        (&[((0, 5, 5), 5, (5000, 5, 5))], false, "one slow scrape"),
        (&[still, ((1000, 5, 5), 5, (1001, 5, 5))], true, "a second"),
        (&[still, ((1000, 5, 5), 5, (1001, 6, 5))], false, "an event is in flight"),
        (&[still, ((1000, 6, 6), 6, (1001, 6, 6))], false, "an event started and finished"),
        (&[((0, 5, 5), 4, (1, 5, 5)), ((1000, 5, 5), 5, (1001, 5, 5))], false, "etcd caught up"),
        (&[((0, 6, 5), 5, (1, 6, 5)), ((1000, 6, 6), 6, (1001, 6, 6))], false, "the event has just finished"),
        (
            &[
                still,
                ((500, 5, 5), 5, (501, 6, 5)),
                ((1000, 6, 6), 6, (1001, 6, 6)),
                ((1999, 6, 6), 6, (2000, 6, 6)),
            ],
            false,
            "an event restarts the second",
        ),
    ];
    for (rows, quiet, why) in cases {
        let (_, steps) = origin_after(Start::Observed, 1, rows);
        assert_eq!(steps.last().map(|step| step.quiet), Some(quiet), "{why}");
    }
}

#[test]
fn violations_move_the_apparent_origin_and_stay_visible() {
    use Start::{Missed, Observed};
    let cases: [(_, &[Row], _, _, _, &str); 11] = [
        (Observed, &[((0, 4, 4), 5, (1, 4, 4))], 1, 1, (1, 2), "the kernel lost one"),
        (
            Observed,
            &[((0, 7, 7), 5, (1, 7, 7))],
            1,
            -1,
            (-2, -1),
            "the kernel has two too many, or one and one unobserved",
        ),
        (Observed, &[((0, 6, 6), 5, (1, 6, 6))], 0, 0, (0, 0), "one too many, or one unobserved"),
        (
            Observed,
            &[((0, 6, 6), 5, (1, 6, 6)), ((1000, 6, 6), 5, (1001, 6, 6))],
            1,
            -1,
            (-1, -1),
            "after a second it is one too many",
        ),
        (
            Observed,
            &[((0, 5, 6), 5, (1, 5, 6)), ((1000, 5, 6), 5, (1001, 5, 6))],
            1,
            -1,
            (-1, -1),
            "a duplicated return, entered once",
        ),
        (
            Observed,
            &[((0, 5, 3), 5, (1, 5, 3))],
            1,
            2,
            (2, 2),
            "two lost returns: the finished events decide",
        ),
        (
            Observed,
            &[((0, 5, 3), 5, (1, 5, 3)), ((2, 6, 4), 6, (3, 6, 4))],
            1,
            2,
            (2, 2),
            "lost returns are one violation, not one per round",
        ),
        (
            Missed,
            &[((0, 5, 3), 105, (1, 5, 3))],
            1,
            0,
            (102, 102),
            "lost returns violate the sandwich although the origin is unknown",
        ),
        (
            Observed,
            &[((0, 4, 4), 5, (1, 4, 4)), ((2, 9, 9), 10, (3, 9, 9)), ((2000, 9, 9), 10, (2001, 9, 9))],
            1,
            1,
            (1, 1),
            "the apparent origin narrows further, the difference stays",
        ),
        (
            Observed,
            &[((0, 4, 4), 5, (1, 4, 4)), ((2, 9, 9), 8, (3, 9, 9))],
            2,
            0,
            (-1, 0),
            "back at the origin: one more violation, but no difference",
        ),
        (
            Observed,
            &[((0, 50, 50), 50, (1, 50, 50)), ((2, 50, 50), 3, (3, 50, 50))],
            1,
            -46,
            (-47, -46),
            "a falling counter belongs to another process",
        ),
    ];
    for (start, rows, violations, difference, (lo, hi), why) in cases {
        let (origin, steps) = origin_after(start, 1, rows);
        assert_eq!(origin.violations(), violations, "{why}");
        assert_eq!(steps.iter().filter(|step| step.gap.is_some()).count() as u64, violations, "{why}");
        assert_eq!(origin.difference(), difference, "{why}");
        assert_eq!(origin.apparent(), Interval { lo, hi }, "{why}");
        if start == Observed {
            assert_eq!(origin.established(), Interval::exactly(0), "{why}");
        }
    }
}

#[test]
fn gaps_are_the_distances_of_the_origin() {
    let (_, steps) = origin_after(
        Start::Missed,
        1,
        &[
            ((0, 5, 4), 104, (1, 5, 4)),
            ((2, 6, 6), 109, (3, 6, 6)),
            ((4, 6, 6), 109, (5, 6, 6)),
            ((6, 9, 9), 3, (7, 9, 9)),
        ],
    );
    let gaps: Vec<_> = steps.iter().map(|step| step.gap).collect();
    assert_eq!(gaps, [None, Some(3), None, Some(-108)], "100, then 103..=104, then -6..=-5");
}

#[test]
fn absurd_counters_are_violations_without_overflow() {
    let absurd = ((0, u64::MAX, u64::MAX), u64::MAX, (u64::MAX / 1_000_000, 0, 0));
    let (origin, _) =
        origin_after(Start::Observed, u32::MAX, &[absurd, ((0, 0, 0), 0, (0, u64::MAX, u64::MAX))]);
    assert!(origin.violations() > 0);
}
