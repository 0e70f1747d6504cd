//! What the cross-check came to.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{counter, gauge, seconds_counter};
use crate::analysis::crosscheck::Invariant;
use crate::analysis::snapshot::Snapshot;

impl Snapshot {
    pub(super) fn encode_crosscheck(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = out.encode_descriptor(
            "crosscheck_events",
            "Events that both the kernel and etcd could count, by who counted them.",
            None,
            MetricType::Counter,
        )?;
        for (member, metric, figure) in self.figures() {
            for (source, count) in
                [("kernel", figure.crosscheck.kernel_events), ("etcd", figure.crosscheck.etcd_events)]
            {
                counter(&mut family, &[("member", member), ("metric", metric), ("source", source)], count)?;
            }
        }
        let mut family = out.encode_descriptor(
            "crosscheck_difference",
            "Events that etcd counted and the kernel did not, negative for the reverse, 0 when exact.",
            None,
            MetricType::Gauge,
        )?;
        for (member, metric, figure) in self.figures() {
            gauge(
                &mut family,
                &[("member", member), ("metric", metric)],
                figure.crosscheck.difference as f64,
            )?;
        }
        let mut family = out.encode_descriptor(
            "crosscheck_origin_uncertainty",
            "Events by which it is unknown how much etcd had counted before the probe came, 0 when pinned; absent until \
             etcd was scraped.",
            None,
            MetricType::Gauge,
        )?;
        for (member, metric, figure) in self.figures() {
            if let Some(events) = figure.crosscheck.origin_uncertainty {
                gauge(&mut family, &[("member", member), ("metric", metric)], events as f64)?;
            }
        }
        let mut family = out.encode_descriptor(
            "crosscheck_unverified",
            "Events of etcds that ended before a scrape could confirm them.",
            None,
            MetricType::Counter,
        )?;
        for (member, metric, figure) in self.figures() {
            counter(&mut family, &[("member", member), ("metric", metric)], figure.crosscheck.unverified)?;
        }
        let mut family = out.encode_descriptor(
            "crosscheck_violations",
            "Scrapes that broke an invariant: the probe lost or doubled events, or the endpoint is another process's.",
            None,
            MetricType::Counter,
        )?;
        for (member, metric, figure) in self.figures() {
            for (invariant, count) in Invariant::ALL.into_iter().zip(figure.crosscheck.violations) {
                let labels = [("member", member), ("metric", metric), ("invariant", invariant.as_str())];
                counter(&mut family, &labels, count)?;
            }
        }
        let mut family = out.encode_descriptor(
            "crosscheck_overhead",
            "Time that etcd's figures hold beyond the kernel's, added up between moments at which both hold the same \
             events.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for (member, metric, figure) in self.figures() {
            seconds_counter(
                &mut family,
                &[("member", member), ("metric", metric)],
                figure.crosscheck.overhead_s,
            )?;
        }
        Ok(())
    }
}
