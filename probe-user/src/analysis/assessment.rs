//! The assessment of one window: evidence, verdict, and since when the verdict holds. Reports and metrics
//! render it.

use super::{
    crosscheck::Observations,
    disk_metric::PerMetric,
    verdict::{Evidence, Judgement},
};

/// The probe and all members at one moment.
#[derive(Clone, Debug)]
pub struct Assessments<'a> {
    /// The value of the label `hook`.
    pub hook: &'static str,
    /// Why the last self-test failed; none if it passed.
    pub self_test_failure: Option<&'a str>,
    /// Upper bound of the calls that no program recorded because the kernel skipped the programs.
    pub skipped_runs: u64,
    /// Events that were not measured, by reason.
    pub misses: Vec<(&'static str, u64)>,
    pub members: Vec<Assessment<'a>>,
}

/// One member at one moment.
#[derive(Clone, Debug)]
pub struct Assessment<'a> {
    pub identity: MemberIdentity,
    pub evidence: Evidence<'a>,
    pub judgement: Judgement,
    /// Seconds for which the verdict has held; none if the last recorded verdict was another one.
    pub since_s: Option<f64>,
    /// etcd's observations in the window.
    pub etcd: PerMetric<Observations>,
    pub crosscheck: PerMetric<CrosscheckTotals>,
    /// Kernel functions in which slow operations of the window were blocked on
    /// [`super::causes::Cause::Other`], the longest time first.
    pub other_frames: Vec<String>,
}

/// The identity of a member in a report.
#[derive(Clone, Debug)]
pub struct MemberIdentity {
    /// The value of the label `member`.
    pub name: String,
    /// None once the process has ended.
    pub pid: Option<u32>,
    /// From the last scrape.
    pub version: Option<String>,
    pub data_dir: String,
    pub wal_dir: String,
    /// The first endpoint that is scraped.
    pub endpoint: Option<String>,
}

/// The cross-check of one disk metric over all incarnations of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrosscheckTotals {
    pub kernel_events: u64,
    pub etcd_events: u64,
    /// Events that only one side counted; 0 if exact.
    pub difference: i64,
    /// Uncertainty of the origin, in events; none before the first scrape.
    pub origin_uncertainty: Option<u64>,
    /// Kernel events that no scrape could verify because the process ended.
    pub unverified: u64,
    /// By [`super::crosscheck::Invariant`].
    pub violations: [u64; 2],
    /// Time by which etcd's observations exceed the kernel's, between moments at which both hold the same
    /// events.
    pub overhead_s: f64,
}
