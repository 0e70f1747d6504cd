//! Renders assessments: the report of `check` and the API, and the metrics. Pure.

pub mod report;
pub mod metrics;
