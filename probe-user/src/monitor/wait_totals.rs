//! The wait totals of a member's operations, over all its incarnations.

use std::{collections::BTreeMap, sync::Arc};

use probe_ebpf::{
    io::{LayerTotals, Owner},
    series::OPERATIONS,
};

use crate::{
    analysis::{
        causes::Cause,
        disk_metric::{DiskMetric, PerMetric},
        latency::TimeSpent,
        slow_operation::{SlowOperation, WaitTimes},
    },
    system::cpu_starvation::Reading,
};

/// The waits of slow operations, by series of [`OPERATIONS`]; in nanoseconds, never decreasing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlowTotals {
    by_series: BTreeMap<u32, SlowSeries>,
}

/// The waits of the slow operations of one series.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SlowSeries {
    /// Operations for which the kernel emitted a record.
    pub operations: u64,
    /// Their total duration, including the time when they were not blocked.
    pub sum_ns: u64,
    pub waits: WaitTimes,
    /// The waits by samples, where `waits` are exact; otherwise equal to `waits`.
    pub sampled: WaitTimes,
    pub device_idle_ns: u64,
    pub device_busy_ns: u64,
}

/// The time of the operations of one disk metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitTotals {
    /// Of all operations on the metric's files that can slow it down.
    pub time: TimeSpent,
    pub slow: SlowSeries,
}

/// The totals of a member at one point of its window.
#[derive(Clone, Debug, Default)]
pub struct WindowTotals {
    pub by_metric: PerMetric<WaitTotals>,
    /// The totals of the device layers under the files, by the kernel side's layer number.
    pub layers: Vec<(u32, LayerTotals)>,
    /// The I/O of each owner on them, shared with other members on the same devices.
    pub owners: Arc<[Owner]>,
    /// How long the process was kept from running, and why.
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
    pub(super) fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.sum_ns += other.sum_ns;
        for cause in Cause::ALL {
            self.waits[cause] += other.waits[cause];
            self.sampled[cause] += other.sampled[cause];
        }
        self.device_idle_ns += other.device_idle_ns;
        self.device_busy_ns += other.device_busy_ns;
    }

    /// Returns the difference to an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |now: &WaitTimes, then: &WaitTimes| {
            WaitTimes::from_fn(|cause| now[cause].saturating_sub(then[cause]))
        };
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

impl WaitTotals {
    /// Returns the difference to an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { time: self.time.since(&earlier.time), slow: self.slow.since(&earlier.slow) }
    }
}

/// Returns whether the operations of a series are part of a disk metric: of the WAL only the syncs, because
/// etcd's metric measures nothing else; of the backend all operations, because a commit consists of them.
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
    fn each_metric_has_its_operations() {
        let of = |metric| {
            (0..).take(OPERATIONS.len()).filter(|series| is_part_of(metric, *series)).collect::<Vec<_>>()
        };
        assert_eq!(of(DiskMetric::WalFsync), [1, 2, 5], "syncs of segments and directories");
        assert_eq!(of(DiskMetric::BackendCommit), [6, 7, 8, 9], "writes and syncs of the database");
    }
}
