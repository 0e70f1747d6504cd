//! Values behind the metrics at the moment of a scrape of the probe.

use std::{collections::BTreeMap, sync::Arc};

use probe_ebpf::series::{Op, Role};

use super::{
    assessment::CrosscheckTotals,
    disk_metric::PerMetric,
    latency::{Exported, TimeSpent},
    reexport::ReexportedMetrics,
    slow_operation::WaitTimes,
    verdict::Verdict,
};

/// All members and the probe itself.
#[derive(Clone, Debug)]
pub struct MetricsSnapshot {
    pub hook: &'static str,
    pub self_test_passed: bool,
    /// None without a web configuration. The server sets it.
    pub web_config_reloaded: Option<bool>,
    /// By reason.
    pub misses: Vec<(&'static str, u64)>,
    pub runs: Vec<ProgramRuns>,
    pub members: Vec<MemberSnapshot>,
}

/// One member, over all its incarnations.
#[derive(Clone, Debug)]
pub struct MemberSnapshot {
    pub name: String,
    pub figures: PerMetric<DiskMetricSnapshot>,
    pub rotation: Exported,
    pub operations: Vec<Operation>,
    /// By role.
    pub in_flight_s: Vec<(&'static str, f64)>,
    pub verdict: Verdict,
    pub etcd_up: bool,
    /// Age of the last copy of etcd's own metrics; none if there is none.
    pub scrape_age_s: Option<f64>,
    /// The re-exported part of that copy; none if the copy is not fresh.
    pub reexported: Option<Arc<ReexportedMetrics>>,
    pub scrape_errors: BTreeMap<&'static str, u64>,
    /// Expiry of each certificate, in seconds since 1970, by [`super::certificate_expiry::CertificateKind`].
    pub certificate_ends_s: [Option<i64>; 3],
    pub data_dir: String,
    pub device: String,
    pub filesystem: String,
    pub version: String,
}

/// One of etcd's disk metrics, measured in the kernel and reconciled.
#[derive(Clone, Debug)]
pub struct DiskMetricSnapshot {
    pub latencies: Exported,
    pub crosscheck: CrosscheckTotals,
}

/// One system call on one kind of file.
#[derive(Clone, Debug)]
pub struct Operation {
    pub role: Role,
    pub op: Op,
    pub latencies: Exported,
    /// None if the kernel does not account for it.
    pub time: Option<TimeSpent>,
    /// The waits of slow operations.
    pub waits: WaitTimes,
    /// By the name of the error.
    pub errors: BTreeMap<&'static str, u64>,
}

/// Run statistics of one kernel program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramRuns {
    pub program: String,
    /// Number and total time of its runs; both 0 unless `kernel.bpf_stats_enabled` is 1.
    pub count: u64,
    pub total_ns: u64,
    /// How often the kernel skipped it.
    pub skipped: u64,
}
