//! etcd's two disk metrics, and values that exist once for each of them.

use std::ops::{Index, IndexMut};

/// Number of finite buckets of etcd's disk histograms (`prometheus.ExponentialBuckets(0.001, 2, 14)` in
/// `server/storage/wal/metrics.go` and `server/storage/backend/metrics.go`, etcd 3.4 to 3.7).
pub const BUCKETS: usize = 14;

/// Upper bounds of those buckets, in nanoseconds: 1 ms × 2^k.
pub const BUCKET_BOUNDS_NS: [u64; BUCKETS] = {
    let mut bounds = [1_000_000; BUCKETS];
    let mut k = 1;
    while k < BUCKETS {
        bounds[k] = bounds[k - 1] * 2;
        k += 1;
    }
    bounds
};

/// Returns the upper bound of bucket `k`, in seconds.
pub fn bucket_bound_s(k: usize) -> f64 {
    (1_u64 << k) as f64 / 1000.0
}

/// One of etcd's two disk metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskMetric {
    WalFsync,
    BackendCommit,
}

impl DiskMetric {
    pub const ALL: [Self; 2] = [Self::WalFsync, Self::BackendCommit];

    /// Returns the value of the label `metric`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WalFsync => "wal_fsync",
            Self::BackendCommit => "backend_commit",
        }
    }

    /// Returns the name in sentences.
    pub const fn title(self) -> &'static str {
        match self {
            Self::WalFsync => "WAL fsync",
            Self::BackendCommit => "backend commit",
        }
    }
}

/// One value for each [`DiskMetric`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerMetric<T> {
    pub wal_fsync: T,
    pub backend_commit: T,
}

impl<T> PerMetric<T> {
    /// Calls a function for each metric.
    pub fn from_fn(mut value: impl FnMut(DiskMetric) -> T) -> Self {
        Self { wal_fsync: value(DiskMetric::WalFsync), backend_commit: value(DiskMetric::BackendCommit) }
    }

    /// Returns the values of both metrics in the order of [`DiskMetric::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.wal_fsync, &self.backend_commit].into_iter()
    }

    /// Returns the values of both metrics, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.wal_fsync, &mut self.backend_commit].into_iter()
    }

    /// Returns both values as an array, in the order of [`DiskMetric::ALL`].
    pub fn into_array(self) -> [T; 2] {
        [self.wal_fsync, self.backend_commit]
    }
}

impl<T> Index<DiskMetric> for PerMetric<T> {
    type Output = T;

    fn index(&self, metric: DiskMetric) -> &T {
        match metric {
            DiskMetric::WalFsync => &self.wal_fsync,
            DiskMetric::BackendCommit => &self.backend_commit,
        }
    }
}

impl<T> IndexMut<DiskMetric> for PerMetric<T> {
    fn index_mut(&mut self, metric: DiskMetric) -> &mut T {
        match metric {
            DiskMetric::WalFsync => &mut self.wal_fsync,
            DiskMetric::BackendCommit => &mut self.backend_commit,
        }
    }
}
