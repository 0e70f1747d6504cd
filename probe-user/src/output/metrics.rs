//! The probe's own metrics, with all their names, and the re-exported metrics of etcd.
//!
//! [`encode`] renders a [`MetricsSnapshot`]. It is pure, so that a test can compare its text with a file.

mod crosscheck_families;
mod etcd_families;
mod exposition_format;
mod kernel_families;
mod reexported_families;
mod probe_families;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

pub use exposition_format::Format;
use exposition_format::ToPrometheus;

use crate::analysis::{
    disk_metric::DiskMetric,
    latency::{BOUNDS_NS, Exported, seconds},
    snapshot::{DiskMetricSnapshot, MemberSnapshot, MetricsSnapshot, Operation},
};

const PREFIX: &str = "etcd_disk_probe";

/// Reserved capacity per member, more than its own metrics take. A text that outgrows its capacity is copied
/// and exists twice for a moment; reserved pages that are not written take no memory.
const OWN_BYTES: usize = 80 << 10;

/// Name, HELP text and type of one metric family. The registry adds the prefix, the encoder the unit and
/// `_total`.
struct MetricFamily {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    is_seconds: bool,
}

impl MetricFamily {
    const fn new(kind: MetricType, name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind, is_seconds: false }
    }

    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(MetricType::Counter, name, help)
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(MetricType::Gauge, name, help)
    }

    const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(MetricType::Histogram, name, help)
    }

    const fn info(name: &'static str, help: &'static str) -> Self {
        Self::new(MetricType::Info, name, help)
    }

    /// Sets the unit, which the encoder appends to the name.
    const fn seconds(self) -> Self {
        Self { is_seconds: true, ..self }
    }

    /// Writes the description of the family and returns the encoder of its series.
    fn begin<'e>(&self, out: &'e mut DescriptorEncoder) -> Result<MetricEncoder<'e>, fmt::Error> {
        let unit = self.is_seconds.then_some(&Unit::Seconds);
        out.encode_descriptor(self.name, self.help, unit, self.kind)
    }
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Returns the whole exposition.
///
/// # Errors
/// None in practice: writing to a string cannot fail.
pub fn encode(snapshot: MetricsSnapshot, format: Format) -> Result<String, fmt::Error> {
    let copies: Vec<_> = snapshot
        .members
        .iter()
        .filter_map(|member| Some((member.name.clone(), member.reexported.clone()?)))
        .collect();
    let reexported_bytes = copies.iter().map(|(_, copy)| copy.bytes()).sum::<usize>();
    let mut out = String::with_capacity(snapshot.members.len() * OWN_BYTES + 2 * reexported_bytes);
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(snapshot));
    match format {
        Format::OpenMetrics => text::encode(&mut out, &registry)?,
        Format::Prometheus => text::encode(&mut ToPrometheus::new(&mut out), &registry)?,
    }
    reexported_families::append(&mut out, &copies, format);
    Ok(out)
}

impl Collector for MetricsSnapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.encode_latencies(&mut encoder)?;
        self.encode_operations(&mut encoder)?;
        self.encode_crosscheck(&mut encoder)?;
        self.encode_etcd(&mut encoder)?;
        self.encode_probe(&mut encoder)
    }
}

impl MetricsSnapshot {
    fn figures(&self) -> impl Iterator<Item = (&str, &'static str, &DiskMetricSnapshot)> {
        self.members.iter().flat_map(|member| {
            let figures = DiskMetric::ALL.into_iter().zip(member.figures.iter());
            figures.map(|(metric, figure)| (member.name.as_str(), metric.as_str(), figure))
        })
    }

    fn operations(&self) -> impl Iterator<Item = (&MemberSnapshot, &Operation)> {
        self.members
            .iter()
            .flat_map(|member| member.operations.iter().map(move |operation| (member, operation)))
    }
}

impl Operation {
    fn labels<'a>(&self, member: &'a str) -> Labels<'a, 3> {
        [("member", member), ("file", self.role.as_str()), ("op", self.op.as_str())]
    }
}

fn histogram(family: &mut MetricEncoder, labels: &impl EncodeLabelSet, exported: &Exported) -> fmt::Result {
    let mut below = 0;
    let mut buckets = [(f64::INFINITY, 0); BOUNDS_NS.len() + 1];
    for ((bucket, bound_ns), count) in buckets.iter_mut().zip(BOUNDS_NS).zip(exported.at_most) {
        *bucket = (seconds(bound_ns), count - below);
        below = count;
    }
    buckets[BOUNDS_NS.len()].1 = exported.count - below;
    let sum_s = seconds(exported.sum_ns);
    family.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum_s, exported.count, &buckets, None)
}

fn counter(family: &mut MetricEncoder, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
}

fn seconds_counter(family: &mut MetricEncoder, labels: &impl EncodeLabelSet, value_s: f64) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&value_s, None)
}

fn gauge(family: &mut MetricEncoder, labels: &impl EncodeLabelSet, value: f64) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(&value)
}

#[cfg(test)]
mod tests;
