//! Prometheus, Alertmanager, Grafana and the Helm chart, with the rules, dashboards and examples of
//! `deploy/`.

pub mod prometheus;
#[cfg(feature = "harness")]
pub mod promql;
#[cfg(feature = "harness")]
pub mod scrape_examples;

#[cfg(feature = "harness")]
pub mod rules;
#[cfg(feature = "harness")]
pub mod alertmanager;

#[cfg(feature = "harness")]
pub mod grafana;

#[cfg(feature = "harness")]
pub mod chart;
