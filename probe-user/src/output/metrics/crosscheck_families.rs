//! Families of the cross-check.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{MetricFamily, counter, gauge, seconds_counter};
use crate::analysis::{crosscheck::Invariant, snapshot::MetricsSnapshot};

const CROSSCHECK_EVENTS: MetricFamily = MetricFamily::counter(
    "crosscheck_events",
    "Events that the kernel and etcd could both count since the probe attached, by source.",
);

const CROSSCHECK_DIFFERENCE: MetricFamily = MetricFamily::gauge(
    "crosscheck_difference",
    "Events that etcd counted and the kernel did not; negative if the kernel counted more, 0 if both \
     agree.",
);

const CROSSCHECK_ORIGIN_UNCERTAINTY: MetricFamily = MetricFamily::gauge(
    "crosscheck_origin_uncertainty",
    "Uncertainty, in events, of etcd's count at the time the probe attached; 0 once it is known \
     exactly, absent until the first scrape of etcd.",
);

const CROSSCHECK_UNVERIFIED: MetricFamily = MetricFamily::counter(
    "crosscheck_unverified",
    "Kernel events that no scrape could verify because the etcd process ended.",
);

const CROSSCHECK_VIOLATIONS: MetricFamily = MetricFamily::counter(
    "crosscheck_violations",
    "Scrapes that violated an invariant: the probe lost or duplicated events, or the endpoint belongs \
     to another process.",
);

const CROSSCHECK_OVERHEAD: MetricFamily = MetricFamily::counter(
    "crosscheck_overhead",
    "Time in etcd's sums beyond the kernel's, accumulated between moments at which both contain the \
     same events.",
)
.seconds();

impl MetricsSnapshot {
    pub(super) fn encode_crosscheck(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = CROSSCHECK_EVENTS.begin(out)?;
        for (member, metric, figure) in self.figures() {
            for (source, count) in
                [("kernel", figure.crosscheck.kernel_events), ("etcd", figure.crosscheck.etcd_events)]
            {
                counter(&mut family, &[("member", member), ("metric", metric), ("source", source)], count)?;
            }
        }
        let mut family = CROSSCHECK_DIFFERENCE.begin(out)?;
        for (member, metric, figure) in self.figures() {
            gauge(
                &mut family,
                &[("member", member), ("metric", metric)],
                figure.crosscheck.difference as f64,
            )?;
        }
        let mut family = CROSSCHECK_ORIGIN_UNCERTAINTY.begin(out)?;
        for (member, metric, figure) in self.figures() {
            if let Some(events) = figure.crosscheck.origin_uncertainty {
                gauge(&mut family, &[("member", member), ("metric", metric)], events as f64)?;
            }
        }
        let mut family = CROSSCHECK_UNVERIFIED.begin(out)?;
        for (member, metric, figure) in self.figures() {
            counter(&mut family, &[("member", member), ("metric", metric)], figure.crosscheck.unverified)?;
        }
        let mut family = CROSSCHECK_VIOLATIONS.begin(out)?;
        for (member, metric, figure) in self.figures() {
            for (invariant, count) in Invariant::ALL.into_iter().zip(figure.crosscheck.violations) {
                let labels = [("member", member), ("metric", metric), ("invariant", invariant.as_str())];
                counter(&mut family, &labels, count)?;
            }
        }
        let mut family = CROSSCHECK_OVERHEAD.begin(out)?;
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
