//! Prometheus, Alertmanager, Grafana and the Helm chart, with the rules, dashboards and examples that `deploy/` contains.

pub mod prometheus;
pub mod promql;
pub mod scrape_examples;

pub mod rules;
pub mod alertmanager;

pub mod grafana;

pub mod chart;
