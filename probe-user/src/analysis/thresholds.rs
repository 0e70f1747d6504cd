//! Limits from the command line that a verdict depends on.

use super::disk_metric::PerMetric;

/// Limits that the operator sets. Times are seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// The p99 above which a member is not healthy.
    pub limit_s: PerMetric<f64>,
    /// Age at which an operation in flight counts as stalled; the member's own election timeout if not set.
    pub stall_limit_s: Option<f64>,
    /// Whether causes are recorded at every context switch (`--causes exact`), next to the samples.
    pub exact_causes: bool,
}
