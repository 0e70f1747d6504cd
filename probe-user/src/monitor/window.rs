//! What the verdict looks back on: the last minute, or the whole of a `check`.

use std::{collections::VecDeque, time::Duration};

use super::losses::{Losses, Lost};
use crate::{
    crosscheck::{Observations, Round},
    latency::Latencies,
};

/// One figure as of one scrape.
#[derive(Clone, Debug)]
pub struct Sample {
    pub kernel: Latencies,
    /// None if the scrape failed.
    pub round: Option<Round>,
}

/// Both figures as of one scrape.
#[derive(Clone, Debug)]
pub struct Point {
    pub at_ns: u64,
    pub samples: [Sample; 2],
    pub losses: Losses,
}

/// Points of one life of a member, oldest first.
#[derive(Clone, Debug)]
pub struct Window {
    length_ns: u64,
    points: VecDeque<Point>,
}

impl Window {
    pub fn new(length: Duration) -> Self {
        Self { length_ns: u64::try_from(length.as_nanos()).unwrap_or(u64::MAX), points: VecDeque::new() }
    }

    /// Adds a point and forgets those that are older than the window, except the last of them: the window begins there.
    pub fn push(&mut self, point: Point) {
        let begin_ns = point.at_ns.saturating_sub(self.length_ns);
        while self.points.get(1).is_some_and(|second| second.at_ns <= begin_ns) {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    pub fn clear(&mut self) {
        self.points = VecDeque::new(); // With its memory.
    }

    /// Returns how long the window is, in seconds.
    pub fn seconds(&self) -> f64 {
        match (self.points.front(), self.points.back()) {
            (Some(first), Some(last)) => crate::latency::seconds(last.at_ns - first.at_ns),
            _ => 0.0,
        }
    }

    /// Returns the kernel's events of a figure in the window.
    pub fn kernel(&self, figure: usize) -> Latencies {
        match (self.points.front(), self.points.back()) {
            (Some(first), Some(last)) => last.samples[figure].kernel.since(&first.samples[figure].kernel),
            _ => Latencies::default(),
        }
    }

    /// Returns where the time of a figure's operations went in the window.
    pub fn lost(&self, figure: usize) -> Lost {
        match self.ends() {
            Some((first, last)) => last.losses.figures[figure].since(&first.losses.figures[figure]),
            None => Lost::default(),
        }
    }

    /// Returns the first and the last point.
    pub fn ends(&self) -> Option<(&Point, &Point)> {
        Some((self.points.front()?, self.points.back()?))
    }

    /// Returns the first and the last round of a figure in the window.
    pub fn rounds(&self, figure: usize) -> Option<(&Round, &Round)> {
        let mut rounds = self.points.iter().filter_map(|point| point.samples[figure].round.as_ref());
        let first = rounds.next()?;
        Some((first, rounds.next_back()?))
    }

    /// Returns etcd's events of a figure in the window.
    pub fn etcd(&self, figure: usize) -> Observations {
        let Some((first, last)) = self.rounds(figure) else { return Observations::default() };
        let mut at_most = [0; crate::crosscheck::BOUNDS];
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

    fn point(at_s: u64, events: u64) -> Point {
        let mut kernel = Latencies::default();
        (0..events).for_each(|_| kernel.record(1_000_000));
        let sample = Sample { kernel, round: None };
        Point { at_ns: at_s * 1_000_000_000, samples: [sample.clone(), sample], losses: Losses::default() }
    }

    #[test]
    fn a_window_forgets_what_is_older() {
        let mut window = Window::new(Duration::from_secs(10));
        assert_eq!(window.kernel(0).count(), 0, "nothing happened yet");
        for (at_s, events) in [(0, 5), (5, 6), (10, 8), (15, 11), (20, 15)] {
            window.push(point(at_s, events));
        }
        assert_eq!(window.kernel(0).count(), 15 - 8, "from second 10 to second 20");
        assert!((window.seconds() - 10.0).abs() < 1e-9);
        assert!(window.rounds(0).is_none(), "no scrape succeeded");
    }
}
