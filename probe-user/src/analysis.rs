//! Pure functions of values: no I/O, no clock. Time is an argument.

pub mod disk_metric;
pub mod thresholds;
pub mod latency;
pub mod causes;
pub mod slow_operation;
pub mod exposition;
pub mod reexport;
pub mod scrape_failure;
pub mod certificate_expiry;
pub mod crosscheck;
pub mod verdict;
pub mod assessment;
pub mod snapshot;
