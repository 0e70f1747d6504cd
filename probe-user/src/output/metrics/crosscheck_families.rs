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
            "Events that the kernel and etcd could both count since the probe attached, by source.",
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
            "Events that etcd counted and the kernel did not; negative if the kernel counted more, 0 if both agree.",
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
            "Uncertainty, in events, of etcd's count at the time the probe attached; 0 once it is known exactly, absent until \
             the first scrape of etcd.",
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
            "Kernel events that no scrape could verify because the etcd process ended.",
            None,
            MetricType::Counter,
        )?;
        for (member, metric, figure) in self.figures() {
            counter(&mut family, &[("member", member), ("metric", metric)], figure.crosscheck.unverified)?;
        }
        let mut family = out.encode_descriptor(
            "crosscheck_violations",
            "Scrapes that violated an invariant: the probe lost or duplicated events, or the endpoint belongs to another process.",
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
            "Time in etcd's sums beyond the kernel's, accumulated between moments at which both contain the same events.",
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
