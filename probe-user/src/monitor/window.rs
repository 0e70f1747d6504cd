//! The period that a verdict covers: the last minute, or all of a `check`.

use std::{collections::VecDeque, time::Duration};

use super::wait_totals::{WaitTotals, WindowTotals};
use crate::analysis::{
    crosscheck::{Observations, Round},
    disk_metric::{BUCKETS, DiskMetric, PerMetric},
    latency::{Gain, Latencies, seconds},
};

/// A window has this many points and at most two more, regardless of the scrape interval.
const POINTS: u64 = 12;

/// Both disk metrics at the time of one scrape.
#[derive(Clone, Debug)]
pub struct WindowPoint {
    pub at_ns: u64,
    /// None if the scrape failed.
    pub rounds: PerMetric<Option<Round>>,
    pub totals: WindowTotals,
}

/// The points of one incarnation of a member, oldest first.
#[derive(Clone, Debug)]
pub struct Window {
    length_ns: u64,
    points: VecDeque<(WindowPoint, Gains)>,
    /// The kernel's counts at the last point, and since the first point.
    last: PerMetric<Latencies>,
    since_first: PerMetric<Latencies>,
}

/// The kernel's counts of both disk metrics since the previous point.
type Gains = PerMetric<Gain>;

impl Window {
    pub fn new(length: Duration) -> Self {
        let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let (last, since_first) = (PerMetric::default(), PerMetric::default());
        Self { length_ns, points: VecDeque::new(), last, since_first }
    }

    /// Adds a point with the kernel's counts at that time, and removes points older than the window, except
    /// the last of them, where the window begins.
    pub fn push(&mut self, mut point: WindowPoint, kernel: PerMetric<Latencies>) {
        let begin_ns = point.at_ns.saturating_sub(self.length_ns);
        while self.points.get(1).is_some_and(|(second, _)| second.at_ns <= begin_ns) {
            self.points.pop_front();
            if let Some((_, gains)) = self.points.front() {
                self.since_first.iter_mut().zip(gains.iter()).for_each(|(all, gain)| all.shrink(gain));
            }
        }
        let mut gains = Gains::default();
        if !self.points.is_empty() {
            for metric in DiskMetric::ALL {
                gains[metric] = kernel[metric].gain_since(&self.last[metric]);
                self.since_first[metric].grow(&gains[metric]);
                self.since_first[metric].max_ns = kernel[metric].max_ns;
            }
        }
        if self.is_last_too_near()
            && let Some((before, earlier)) = self.points.pop_back()
        {
            for (gain, earlier) in gains.iter_mut().zip(earlier.iter()) {
                *gain = gain.and(earlier);
            }
            for (round, before) in point.rounds.iter_mut().zip(before.rounds.into_array()) {
                *round = round.take().or(before);
            }
        }
        self.points.push_back((point, gains));
        self.last = kernel;
    }

    /// Returns whether the last point followed the previous one too soon, so that the next point replaces it.
    fn is_last_too_near(&self) -> bool {
        let mut from_last = self.points.iter().rev().map(|(point, _)| point.at_ns);
        let two = from_last.next().zip(from_last.next());
        two.is_some_and(|(last_ns, before_ns)| last_ns - before_ns < self.length_ns / POINTS)
    }

    pub fn clear(&mut self) {
        *self = Self { length_ns: self.length_ns, ..Self::new(Duration::ZERO) }; // Releases its memory, too.
    }

    /// Returns the length of the window, in seconds.
    pub fn seconds(&self) -> f64 {
        self.ends().map_or(0.0, |(first, last)| seconds(last.at_ns - first.at_ns))
    }

    /// Returns the kernel's events of a disk metric in the window.
    pub fn kernel(&self, metric: DiskMetric) -> &Latencies {
        &self.since_first[metric]
    }

    /// Returns the wait totals of a disk metric's operations in the window.
    pub fn wait_totals(&self, metric: DiskMetric) -> WaitTotals {
        match self.ends() {
            Some((first, last)) => last.totals.by_metric[metric].since(&first.totals.by_metric[metric]),
            None => WaitTotals::default(),
        }
    }

    /// Returns the first and the last point.
    pub fn ends(&self) -> Option<(&WindowPoint, &WindowPoint)> {
        Some((&self.points.front()?.0, &self.points.back()?.0))
    }

    /// Returns the first and the last round of a disk metric in the window.
    pub fn rounds(&self, metric: DiskMetric) -> Option<(&Round, &Round)> {
        let mut rounds = self.points.iter().filter_map(|(point, _)| point.rounds[metric].as_ref());
        let first = rounds.next()?;
        Some((first, rounds.next_back()?))
    }

    /// Returns etcd's events of a disk metric in the window.
    pub fn etcd(&self, metric: DiskMetric) -> Observations {
        let Some((first, last)) = self.rounds(metric) else { return Observations::default() };
        let mut at_most = [0; BUCKETS];
        for (k, count) in at_most.iter_mut().enumerate() {
            *count = last.etcd.at_most[k].saturating_sub(first.etcd.at_most[k]);
        }
        Observations {
            count: last.etcd.count.saturating_sub(first.etcd.count),
            sum_s: (last.etcd.sum_s - first.etcd.sum_s).max(0.0),
            at_most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds a point at a second of the window, with a count of events.
    fn push(window: &mut Window, at_s: u64, events: u64) {
        let mut kernel = Latencies::default();
        (0..events).for_each(|_| kernel.record(1_000_000));
        let totals = WindowTotals::default();
        let point = WindowPoint { at_ns: at_s * 1_000_000_000, rounds: PerMetric::default(), totals };
        window.push(point, PerMetric { wal_fsync: kernel.clone(), backend_commit: kernel });
    }

    #[test]
    fn a_window_removes_older_points() {
        let mut window = Window::new(Duration::from_secs(10));
        assert_eq!(window.kernel(DiskMetric::WalFsync).count(), 0, "nothing happened yet");
        for (at_s, events) in [(0, 5), (5, 6), (10, 8), (15, 11), (20, 15)] {
            push(&mut window, at_s, events);
        }
        assert_eq!(window.kernel(DiskMetric::WalFsync).count(), 15 - 8, "from second 10 to second 20");
        assert!((window.seconds() - 10.0).abs() < 1e-9);
        assert!(window.rounds(DiskMetric::WalFsync).is_none(), "no scrape succeeded");
        window.clear();
        assert_eq!(window.kernel(DiskMetric::WalFsync).count(), 0, "another incarnation");
        push(&mut window, 30, 2);
        push(&mut window, 31, 3);
        assert_eq!(window.kernel(DiskMetric::WalFsync).count(), 1, "counted from its own start");
    }

    #[test]
    fn frequent_scrapes_give_the_same_window_and_no_more_points() {
        let (mut rare, mut frequent) =
            (Window::new(Duration::from_mins(1)), Window::new(Duration::from_mins(1)));
        for at_s in 0..300 {
            push(&mut frequent, at_s, 10 * at_s);
            if at_s % 5 == 4 {
                push(&mut rare, at_s, 10 * at_s);
            }
            let points = frequent.points.len() as u64;
            assert!(points <= POINTS + 2, "{points} points at {at_s} s");
        }
        assert!((60.0..65.0).contains(&frequent.seconds()), "{} s", frequent.seconds());
        assert!((60.0..65.0).contains(&rare.seconds()), "{} s", rare.seconds());
        for window in [frequent, rare] {
            let missing = 10.0 * window.seconds() - window.kernel(DiskMetric::BackendCommit).count() as f64;
            assert!(missing.abs() < 1e-6, "{missing} of the window's events");
        }
    }
}
