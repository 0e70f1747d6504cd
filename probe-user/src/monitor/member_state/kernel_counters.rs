//! A member's counters in the kernel, and what its ended incarnations had counted.

use std::collections::BTreeMap;

use probe_ebpf::series::{BACKEND_COMMIT, META_COMMIT, OPERATIONS, SERIES, WAL_FSYNC};

use super::MemberState;
use crate::{
    analysis::{
        crosscheck::{KernelReading, Observations},
        disk_metric::{BUCKET_BOUNDS_NS, DiskMetric},
        latency::{Latencies, TimeSpent, seconds},
    },
    kernel::{Kernel, Process, monotonic_ns},
    monitor::wait_totals::{WaitTotals, is_part_of},
};

/// A database that was used this recently may still be closing while the next one commits.
const BACKEND_CLOSES_NS: u64 = 60_000_000_000;

/// The counts of ended incarnations.
#[derive(Clone, Debug)]
pub(super) struct EndedIncarnations {
    series: Vec<Latencies>,
    time: Vec<TimeSpent>,
    /// By series and errno.
    errors: BTreeMap<(u32, u32), u64>,
}

impl Default for EndedIncarnations {
    fn default() -> Self {
        Self {
            series: vec![Latencies::default(); SERIES as usize],
            time: vec![TimeSpent::default(); SERIES as usize],
            errors: BTreeMap::new(),
        }
    }
}

impl EndedIncarnations {
    /// Adds the kernel's counts of a process.
    pub(super) fn add(&mut self, kernel: &Kernel, process: Process) {
        for series in 0..SERIES {
            self.series[series as usize].add(&kernel.latencies(process.target, series));
            self.time[series as usize].add(&kernel.time_spent(process.target, series));
        }
        add_errors(&mut self.errors, kernel, process);
    }
}

fn add_errors(errors: &mut BTreeMap<(u32, u32), u64>, kernel: &Kernel, process: Process) {
    for (key, count) in kernel.errors().into_iter().filter(|(key, _)| key.target == process.target) {
        *errors.entry((key.series, key.errno)).or_default() += count;
    }
}

impl MemberState {
    /// Returns the kernel's series that corresponds to one of etcd's disk metrics.
    pub fn series_of(&self, metric: DiskMetric) -> u32 {
        match metric {
            DiskMetric::WalFsync => WAL_FSYNC,
            // Without syncs, a commit ends with its meta page.
            DiskMetric::BackendCommit if self.member.settings.unsafe_no_fsync => META_COMMIT,
            DiskMetric::BackendCommit => BACKEND_COMMIT,
        }
    }

    /// Returns a series over all incarnations.
    pub fn latencies(&self, kernel: &Kernel, series: u32) -> Latencies {
        let mut all = self.latencies_now(kernel, series);
        if let Some(previous) = &self.previous {
            all.add(&previous.series[series as usize]);
        }
        all
    }

    /// Returns a series of the current incarnation.
    pub(super) fn latencies_now(&self, kernel: &Kernel, series: u32) -> Latencies {
        self.process.map_or_else(Latencies::default, |process| kernel.latencies(process.target, series))
    }

    /// Returns how the time of a series was spent, over all incarnations.
    pub fn time_spent(&self, kernel: &Kernel, series: u32) -> TimeSpent {
        let mut all =
            self.previous.as_ref().map_or_else(TimeSpent::default, |previous| previous.time[series as usize]);
        if let Some(process) = self.process {
            all.add(&kernel.time_spent(process.target, series));
        }
        all
    }

    /// Returns the wait totals of a disk metric's operations, over all incarnations.
    pub fn wait_totals(&self, kernel: &Kernel, metric: DiskMetric) -> WaitTotals {
        let mut totals = WaitTotals::default();
        for series in (0..).take(OPERATIONS.len()).filter(|series| is_part_of(metric, *series)) {
            totals.time.add(&self.time_spent(kernel, series));
            totals.slow.add(&self.slow.series(series));
        }
        totals
    }

    /// Returns how often operations failed, by series and errno, over all incarnations.
    pub fn errors(&self, kernel: &Kernel) -> BTreeMap<(u32, u32), u64> {
        let mut all = self.previous.as_ref().map(|previous| previous.errors.clone()).unwrap_or_default();
        if let Some(process) = self.process {
            add_errors(&mut all, kernel, process);
        }
        all
    }

    /// Returns the age of the oldest operation in flight of each series of [`OPERATIONS`], in seconds.
    pub fn in_flight_s(&self, kernel: &Kernel) -> [f64; OPERATIONS.len()] {
        let mut oldest = [0.0; OPERATIONS.len()];
        let Some(process) = self.process else { return oldest };
        for operation in kernel.in_flight().iter().filter(|operation| operation.target == process.target) {
            if let Some(age_s) = oldest.get_mut(operation.series as usize) {
                *age_s = seconds(operation.age_ns).max(*age_s);
            }
        }
        oldest
    }

    /// Reads the kernel's counts of a disk metric in the current incarnation, in the order that the
    /// cross-check requires.
    pub fn reading(&self, kernel: &Kernel, metric: DiskMetric) -> (KernelReading, Latencies) {
        let series = self.series_of(metric);
        let before_ns = monotonic_ns();
        let latencies = self.latencies_now(kernel, series);
        let finished = observations(&latencies);
        let (entered, sequences) = match self.process {
            Some(process) => (kernel.entered(process.target, series), sequences(kernel, process, metric)),
            None => (0, 1),
        };
        (KernelReading { at_ns: before_ns, entered, sequences, finished }, latencies)
    }
}

/// Returns how many commits can be in progress independently of each other.
fn sequences(kernel: &Kernel, process: Process, metric: DiskMetric) -> u32 {
    match metric {
        DiskMetric::WalFsync => 1,
        DiskMetric::BackendCommit => {
            let since_ns = monotonic_ns().saturating_sub(BACKEND_CLOSES_NS);
            let used = kernel.state(process.target).backends;
            let recent =
                used.iter().filter(|backend| backend.inode != 0 && backend.used_ns > since_ns).count();
            u32::try_from(recent).unwrap_or(u32::MAX).max(1)
        }
    }
}

fn observations(latencies: &Latencies) -> Observations {
    Observations {
        count: latencies.count(),
        sum_s: latencies.sum_seconds(),
        at_most: latencies.at_most(&BUCKET_BOUNDS_NS),
    }
}
