//! The lost time and where it was lost: the sum over the slow metrics.

use super::{
    EVENTS_MIN_ALIVE, Evidence, MetricEvidence, SAMPLES_MIN, SlowTime, TimeSplit, format::share, longer_than,
};
use crate::analysis::{
    causes::{Cause, PerCause},
    disk_metric::DiskMetric,
};

/// Normal mean overhead per event, as a share of the metric's limit: Go's scheduler, rebalancing and
/// spilling. If storage is slow, only a mean overhead above it counts as lost time. A healthy machine has
/// some 10 to 100 µs; this is 1 ms there.
const ORDINARY_OVERHEAD: f64 = 0.1;

/// Of 99 events whose p99 is within the limit, this many exceed it in one window of 300 (binomial, p = 0.01);
/// with fewer events, in fewer windows.
const OUTLIERS_MAX: u64 = 5;

/// Time lost in a window, in seconds.
#[derive(Clone, Debug, Default)]
pub struct LostTime {
    /// Blocked in the kernel.
    pub storage_s: f64,
    /// Ready to run within a system call, and waiting for a CPU.
    pub run_queue_s: f64,
    /// In etcd's metric and outside the system call.
    pub overhead_s: f64,
    /// The blocked time by [`Cause`], as far as stacks show it.
    pub waits_s: PerCause<f64>,
    pub device_idle_s: f64,
    pub device_busy_s: f64,
    /// Slow operations.
    pub operations: u64,
    /// Whether blocked time can be distinguished from time on a CPU.
    pub is_split: bool,
    /// Whether any metric is slow in the kernel.
    pub in_kernel: bool,
}

impl LostTime {
    /// Adds up the lost time of the slow metrics; none if none is slow.
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

    /// Adds the slow operations; all operations if none was slow by itself, since a commit consists of many
    /// short ones.
    ///
    /// A metric that is fast in the kernel lost no time to storage, but a CPU can still have delayed it
    /// there.
    fn add_operations(&mut self, slow: &SlowTime, all: &TimeSplit, in_kernel: bool) {
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

    /// Returns the share of these causes in the blocked time with a known cause.
    pub fn waits_share(&self, causes: &[Cause]) -> f64 {
        let known_s: f64 = self.waits_s.iter().sum::<f64>() - self.waits_s[Cause::Unsampled];
        share(causes.iter().map(|cause| self.waits_s[*cause]).sum(), known_s)
    }

    /// Returns whether stacks show a cause for any of the blocked time.
    pub fn is_sampled(&self) -> bool {
        Cause::ALL.iter().any(|cause| *cause != Cause::Unsampled && self.waits_s[*cause] > 0.0)
    }

    /// Returns the share of the sampled blocked time in which the device was idle; none without such samples.
    pub fn device_idle(&self) -> Option<f64> {
        let seen_s = self.device_idle_s + self.device_busy_s;
        (seen_s > 0.0).then(|| share(self.device_idle_s, seen_s))
    }

    /// Returns the mean time for which a slow operation was blocked.
    pub fn mean_wait_s(&self) -> Option<f64> {
        (self.operations > 0).then(|| self.storage_s / self.operations as f64)
    }
}

/// Returns whether a metric is slow in the kernel. Few events suffice if most of them are slow, or so many
/// that a p99 within the limit is implausible (p < 0.01).
pub fn is_slow(figure: &MetricEvidence) -> bool {
    let above = |q| figure.kernel.quantile(q).is_some_and(|latency_s| latency_s > figure.limit_s);
    if figure.kernel.count() >= SAMPLES_MIN {
        above(0.99)
    } else {
        figure.kernel.count() >= EVENTS_MIN_ALIVE
            && (above(0.5) || longer_than(figure, figure.limit_s) >= OUTLIERS_MAX)
    }
}

/// Returns whether a metric is slow in etcd. Few events suffice if the mean time outside the kernel exceeds
/// the limit.
pub fn is_slow_in_etcd(figure: &MetricEvidence) -> bool {
    let above = figure.etcd_p99_above_s.is_some_and(|bound_s| bound_s >= figure.limit_s);
    let clear = figure.etcd_count >= EVENTS_MIN_ALIVE
        && figure.overhead_s.is_some_and(|mean_s| mean_s > figure.limit_s);
    above && (figure.etcd_count >= SAMPLES_MIN || clear)
}
