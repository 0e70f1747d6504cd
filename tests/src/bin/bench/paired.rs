//! With and without a tracer alternately, under one continuous load: the effect on etcd is the difference of
//! adjacent phases.

use std::thread;
use std::time::{Duration, Instant};

use probe_user::kernel::Toggle;

use crate::figures::{Estimate, jackknife, quantile, trimmed_mean};
use crate::puts::{Generator, Put, Window};
use crate::system::cpu_time;
use crate::tracers::{Stage, Tracer, Tracing};

/// The number of blocks of adjacent pairs for the estimate of the error.
const BLOCKS: usize = 20;

/// How long the load continues after a phase, so that puts that were due in it can complete.
const BETWEEN: Duration = Duration::from_millis(10);

/// The tracer that is switched on and off.
pub enum Switched {
    /// The probe, which stays loaded.
    Toggle(Box<Toggle>),
    /// A tracer that is started again for each phase.
    Tracer { tracer: Tracer, stage: Stage, tracing: Option<Tracing> },
}

impl Switched {
    fn turn(&mut self, on: bool, pid: u32) -> anyhow::Result<()> {
        match self {
            Self::Toggle(toggle) if on => toggle.attach()?,
            Self::Toggle(toggle) => toggle.detach(),
            Self::Tracer { tracer, stage, tracing } => {
                *tracing = None;
                if on {
                    *tracing = Some(tracer.start(stage, pid)?);
                }
            }
        }
        Ok(())
    }
}

/// One phase of the load.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    pub window: Window,
    pub cpu_ns: u64,
}

/// Two adjacent phases.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    pub without: Phase,
    pub with: Phase,
}

/// Measures a phase without and a phase with the tracer, in this order or the other.
pub fn pair(
    load: &Generator,
    pid: u32,
    lasting: Duration,
    with_first: bool,
    switched: &mut Switched,
) -> anyhow::Result<Pair> {
    let mut pair = Pair::default();
    for with in [with_first, !with_first] {
        switched.turn(with, pid)?;
        // Puts that straddle the switch count for neither.
        thread::sleep(BETWEEN);
        load.take()?;
        let (from, before) = (Instant::now(), cpu_time(pid)?);
        thread::sleep(lasting);
        let (to, after) = (Instant::now(), cpu_time(pid)?);
        let puts: Vec<Put> = load.take()?;
        let cpu_ns = u64::try_from(after.saturating_sub(before).as_nanos())?;
        let phase = Phase { window: Window::of(&puts, from, to), cpu_ns };
        *(if with { &mut pair.with } else { &mut pair.without }) = phase;
    }
    Ok(pair)
}

/// The effect of a tracer, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Changes {
    pub throughput: Option<Estimate>,
    pub cpu_per_put: Option<Estimate>,
    pub p50: Option<Estimate>,
    pub p99: Option<Estimate>,
}

/// A quantity computed from phases.
type Figure = fn(&[&Phase]) -> Option<f64>;

impl Changes {
    /// Computes throughput, CPU time and the median from the changes of the pairs, without the pairs that
    /// something disturbed; and p99 from all puts together.
    pub fn of(pairs: &[Pair]) -> Self {
        // The logarithm, so that half and double are equally far away.
        let of_pair = |figure: Figure| {
            let one = |pair: &Pair| {
                let ratio = figure(&[&pair.with])? / figure(&[&pair.without])?;
                (ratio.is_finite() && ratio > 0.0).then(|| ratio.ln())
            };
            let estimate = trimmed_mean(&pairs.iter().filter_map(one).collect::<Vec<_>>())?;
            let value = estimate.value.exp_m1() * 100.0;
            Some(Estimate { value, standard_error: estimate.standard_error * (100.0 + value) })
        };
        // A phase has too few puts for a p99 of its own.
        let of_all = |figure: Figure| {
            jackknife(pairs.len(), BLOCKS, |counts| {
                let counted = || pairs.iter().enumerate().filter(|(n, _)| counts(*n)).map(|(_, pair)| pair);
                let with = figure(&counted().map(|pair| &pair.with).collect::<Vec<_>>())?;
                let without = figure(&counted().map(|pair| &pair.without).collect::<Vec<_>>())?;
                Some((with / without - 1.0) * 100.0)
            })
        };
        Self {
            throughput: of_pair(throughput),
            cpu_per_put: of_pair(cpu_per_put_ns),
            p50: of_pair(|phases| latency_ns(phases, 0.5)),
            p99: of_all(|phases| latency_ns(phases, 0.99)),
        }
    }

    /// Returns whether the intervals of CPU time and of the median latency are narrower than this, in percent
    /// from end to end.
    pub fn are_within(&self, percent: f64) -> bool {
        let narrow = |estimate: Option<Estimate>| estimate.is_some_and(|of| 2.0 * of.within() < percent);
        narrow(self.cpu_per_put) && narrow(self.p50)
    }
}

/// Returns puts per second.
pub fn throughput(phases: &[&Phase]) -> Option<f64> {
    let seconds: f64 = phases.iter().map(|phase| phase.window.seconds).sum();
    (seconds > 0.0).then(|| done(phases) / seconds)
}

/// Returns etcd's CPU time per put.
pub fn cpu_per_put_ns(phases: &[&Phase]) -> Option<f64> {
    let cpu_ns: u64 = phases.iter().map(|phase| phase.cpu_ns).sum();
    (done(phases) > 0.0).then(|| cpu_ns as f64 / done(phases))
}

/// Returns a quantile of all puts of these phases.
pub fn latency_ns(phases: &[&Phase], q: f64) -> Option<f64> {
    let mut all: Vec<u64> = phases.iter().flat_map(|phase| &phase.window.latencies_ns).copied().collect();
    all.sort_unstable();
    quantile(&all, q).map(|ns| ns as f64)
}

fn done(phases: &[&Phase]) -> f64 {
    phases.iter().map(|phase| phase.window.done as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(done: usize, latency_ns: u64, cpu_ns: u64) -> Phase {
        let window = Window { seconds: 0.2, done, latencies_ns: vec![latency_ns; done] };
        Phase { window, cpu_ns }
    }

    #[test]
    fn changes_are_computed_from_all_pairs() {
        let pair = Pair { without: phase(100, 1000, 50_000), with: phase(98, 1010, 49_490) };
        let changes = Changes::of(&vec![pair; 40]);
        let near = |estimate: Option<Estimate>, expected: f64| {
            let estimate = estimate.unwrap();
            assert!(
                (estimate.value - expected).abs() < 1e-9 && estimate.standard_error < 1e-9,
                "{estimate:?}"
            );
        };
        near(changes.throughput, -2.0);
        near(changes.cpu_per_put, 1.0);
        near(changes.p50, 1.0);
        assert!(changes.are_within(0.1), "every pair is the same");
        assert!(!Changes::of(&[]).are_within(100.0), "nothing is known of nothing");
    }
}
