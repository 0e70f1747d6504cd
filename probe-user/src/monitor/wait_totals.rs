//! Where the time of a member's operations went, added up over all its lives.

use std::{collections::BTreeMap, sync::Arc};

use probe_ebpf::{
    io::{LayerTotals, Owner},
    series::OPERATIONS,
};

use super::MemberState;
use crate::{
    analysis::{
        causes::Cause,
        disk_metric::{DiskMetric, PerMetric},
        latency::TimeSpent,
        slow_operation::{SlowOperation, Waits},
    },
    kernel::Kernel,
    system::cpu_starvation::Reading,
};

/// What slow operations waited for, by series of [`OPERATIONS`]; in nanoseconds, never falling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlowTotals {
    by_series: BTreeMap<u32, SlowSeries>,
}

/// What the slow operations of one series waited for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SlowSeries {
    /// Those that were told of one by one.
    pub operations: u64,
    /// How long they took, and the parts of it that were not blocked.
    pub sum_ns: u64,
    pub waits: Waits,
    /// The same by samples, where `waits` are exact; else equal.
    pub sampled: Waits,
    pub device_idle_ns: u64,
    pub device_busy_ns: u64,
}

/// What a verdict looks back on of one figure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Of all operations of the figure's files that can slow it down.
    pub time: TimeSpent,
    pub slow: SlowSeries,
}

/// All of it, as of one instant.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    pub by_metric: PerMetric<Lost>,
    /// What the layers of devices under the files did, by the kernel side's numbers.
    pub layers: Vec<(u32, LayerTotals)>,
    /// Who did what on them; other members on the same devices have the same.
    pub owners: Arc<[Owner]>,
    /// What kept the process from running.
    pub starvation: Option<Reading>,
}

impl SlowTotals {
    /// Adds an operation.
    pub fn add(&mut self, operation: &SlowOperation) {
        let series = self.by_series.entry(operation.record.series).or_default();
        series.operations += 1;
        series.sum_ns += operation.record.latency_ns;
        let sampled = operation.sampled.as_ref().unwrap_or(&operation.waits);
        for cause in Cause::ALL {
            series.waits[cause] += operation.waits[cause];
            series.sampled[cause] += sampled[cause];
        }
        series.device_idle_ns += operation.device_idle_ns;
        series.device_busy_ns += operation.device_busy_ns;
    }

    /// Returns one series.
    pub fn series(&self, series: u32) -> SlowSeries {
        self.by_series.get(&series).cloned().unwrap_or_default()
    }
}

impl SlowSeries {
    fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.sum_ns += other.sum_ns;
        for cause in Cause::ALL {
            self.waits[cause] += other.waits[cause];
            self.sampled[cause] += other.sampled[cause];
        }
        self.device_idle_ns += other.device_idle_ns;
        self.device_busy_ns += other.device_busy_ns;
    }

    /// Returns what came since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference =
            |now: &Waits, then: &Waits| Waits::from_fn(|cause| now[cause].saturating_sub(then[cause]));
        Self {
            operations: self.operations.saturating_sub(earlier.operations),
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
            waits: difference(&self.waits, &earlier.waits),
            sampled: difference(&self.sampled, &earlier.sampled),
            device_idle_ns: self.device_idle_ns.saturating_sub(earlier.device_idle_ns),
            device_busy_ns: self.device_busy_ns.saturating_sub(earlier.device_busy_ns),
        }
    }
}

impl Lost {
    /// Reads what a member has lost so far in one of its figures.
    pub fn of(tracked: &MemberState, kernel: &Kernel, metric: DiskMetric) -> Self {
        let mut lost = Self::default();
        for series in (0..).take(OPERATIONS.len()).filter(|series| is_part_of(metric, *series)) {
            lost.time.add(&tracked.time_spent(kernel, series));
            lost.slow.add(&tracked.slow().series(series));
        }
        lost
    }

    /// Returns what came since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { time: self.time.since(&earlier.time), slow: self.slow.since(&earlier.slow) }
    }
}

/// Returns whether the operations of a series make a figure what it is: of the WAL the syncs, which is all that etcd's figure
/// holds; of the backend all, for a commit is made of them.
pub fn is_part_of(metric: DiskMetric, series: u32) -> bool {
    use probe_ebpf::series::{Op, Role};
    let Some((role, op)) = OPERATIONS.get(series as usize) else { return false };
    match metric {
        DiskMetric::WalFsync => {
            matches!(role, Role::Wal | Role::WalDir) && matches!(op, Op::Fdatasync | Op::Fsync)
        }
        DiskMetric::BackendCommit => matches!(role, Role::Backend),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_made_of_their_operations() {
        let of = |metric| {
            (0..).take(OPERATIONS.len()).filter(|series| is_part_of(metric, *series)).collect::<Vec<_>>()
        };
        assert_eq!(of(DiskMetric::WalFsync), [1, 2, 5], "syncs of segments and directories");
        assert_eq!(of(DiskMetric::BackendCommit), [6, 7, 8, 9], "writes and syncs of the database");
    }
}
