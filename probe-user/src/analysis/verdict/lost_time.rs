//! How much time was lost, and where: the sum over the figures that are slow.

use super::{CLEARLY_ALIVE, ENOUGH, Evidence, Figure, SlowTime, Split, format::share, longer_than};
use crate::analysis::causes::{Cause, PerCause};
use crate::analysis::disk_metric::DiskMetric;

/// Mean overhead per event, as part of the figure's limit, that is nobody's fault: Go's scheduler, rebalancing and spilling.
/// Beside slow storage only what exceeds it counts as lost; some 10 to 100 µs are seen on a healthy machine, where this is 1 ms.
const ORDINARY_OVERHEAD: f64 = 0.1;

/// Of 99 events whose p99 is within the limit this many exceed it in one window of 300 (binomial, p = 0.01); of fewer in less.
const A_WONDER: u64 = 5;

/// Time lost in a window, in seconds.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    /// Blocked in the kernel.
    pub storage_s: f64,
    /// Ready to run within a system call, and waiting for a CPU.
    pub run_queue_s: f64,
    /// In etcd's figure and outside the system call.
    pub overhead_s: f64,
    /// Of the blocked time, what stacks tell, by [`Cause`].
    pub waits_s: PerCause<f64>,
    pub device_idle_s: f64,
    pub device_busy_s: f64,
    /// Slow operations.
    pub operations: u64,
    /// Whether anything tells blocked time from time on a CPU.
    pub is_split: bool,
    /// Whether any figure is slow in the kernel.
    pub in_kernel: bool,
}

impl Lost {
    /// Adds up what the slow figures lost; none if none is slow.
    pub fn of(evidence: &Evidence) -> Option<Self> {
        let mut lost = Self::default();
        let mut slow = false;
        for metric in DiskMetric::ALL {
            let figure = &evidence.figures[metric];
            let (in_kernel, in_etcd) = (is_slow(figure), is_slow_in_etcd(figure));
            if in_kernel || in_etcd {
                lost.add_operations(&evidence.slow[metric], &evidence.split[metric], in_kernel);
                slow = true;
            }
            lost.in_kernel |= in_kernel;
            let ordinary_s = if in_kernel { figure.limit_s * ORDINARY_OVERHEAD } else { 0.0 };
            if in_etcd && figure.overhead_s.is_none_or(|mean_s| mean_s > ordinary_s) {
                lost.overhead_s += figure.overhead_total_s.unwrap_or_default().max(0.0);
            }
        }
        slow.then_some(lost)
    }

    /// Takes the slow operations; all of them where none was slow by itself, for a commit is many short ones.
    ///
    /// What is fast in the kernel lost nothing to storage; the CPU can have delayed it there all the same.
    fn add_operations(&mut self, slow: &SlowTime, all: &Split, in_kernel: bool) {
        let (blocked_s, run_queue_s) = if slow.operations > 0 {
            self.is_split = true;
            (slow.total_s - slow.on_cpu_s - slow.run_queue_s, slow.run_queue_s)
        } else {
            self.is_split |= all.run_queue_s.is_some();
            let (on_cpu_s, run_queue_s) =
                (all.on_cpu_s.unwrap_or_default(), all.run_queue_s.unwrap_or_default());
            (all.total_s - on_cpu_s - run_queue_s, run_queue_s)
        };
        self.run_queue_s += run_queue_s.max(0.0);
        if !in_kernel {
            return;
        }
        self.storage_s += blocked_s.max(0.0);
        for cause in Cause::ALL {
            self.waits_s[cause] += slow.waits_s[cause].max(0.0);
        }
        self.device_idle_s += slow.device_idle_s.max(0.0);
        self.device_busy_s += slow.device_busy_s.max(0.0);
        self.operations += slow.operations;
    }

    /// Returns the part of the blocked time with known causes that these make up.
    pub fn waits_share(&self, causes: &[Cause]) -> f64 {
        let known_s: f64 = self.waits_s.iter().sum::<f64>() - self.waits_s[Cause::Unsampled];
        share(causes.iter().map(|cause| self.waits_s[*cause]).sum(), known_s)
    }

    /// Returns whether anything tells what the blocked time was spent on.
    pub fn is_sampled(&self) -> bool {
        Cause::ALL.iter().any(|cause| *cause != Cause::Unsampled && self.waits_s[*cause] > 0.0)
    }

    /// Returns whether the device had nothing to do for most of the time that etcd was blocked; none if it was never looked at.
    pub fn device_idle(&self) -> Option<f64> {
        let seen_s = self.device_idle_s + self.device_busy_s;
        (seen_s > 0.0).then(|| share(self.device_idle_s, seen_s))
    }

    /// Returns how long a slow operation was blocked on average.
    pub fn mean_wait_s(&self) -> Option<f64> {
        (self.operations > 0).then(|| self.storage_s / self.operations as f64)
    }
}

/// Few samples suffice to call it slow if most of them are, or so many that a p99 within the limit would be a wonder.
pub fn is_slow(figure: &Figure) -> bool {
    let above = |q| figure.kernel.quantile(q).is_some_and(|latency_s| latency_s > figure.limit_s);
    if figure.kernel.count() >= ENOUGH {
        above(0.99)
    } else {
        figure.kernel.count() >= CLEARLY_ALIVE
            && (above(0.5) || longer_than(figure, figure.limit_s) >= A_WONDER)
    }
}

/// Likewise of etcd's own figure, where few samples suffice if what the kernel did not see exceeds the limit on average.
pub fn is_slow_in_etcd(figure: &Figure) -> bool {
    let above = figure.etcd_p99_above_s.is_some_and(|bound_s| bound_s >= figure.limit_s);
    let clear =
        figure.etcd_count >= CLEARLY_ALIVE && figure.overhead_s.is_some_and(|mean_s| mean_s > figure.limit_s);
    above && (figure.etcd_count >= ENOUGH || clear)
}
