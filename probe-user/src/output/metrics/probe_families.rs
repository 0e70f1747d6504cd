//! What the probe tells of itself.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{counter, seconds_counter};
use crate::analysis::latency::seconds;
use crate::analysis::snapshot::Snapshot;

impl Snapshot {
    pub(super) fn encode_probe(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = out.encode_descriptor(
            "misses",
            "Events that were not measured, by reason.",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in &self.misses {
            counter(&mut family, &[("reason", *reason)], *count)?;
        }
        self.encode_runs(out)?;
        let mut family =
            out.encode_descriptor("hook", "How the kernel programs are attached.", None, MetricType::Info)?;
        family.encode_info(&[("hook", self.hook)])?;
        let mut family = out.encode_descriptor(
            "self_test_success",
            "1 if all events of the last self-test, which runs every few seconds, arrived through the hook; 0 if the probe is blind.",
            None,
            MetricType::Gauge,
        )?;
        family.encode_gauge(&f64::from(u8::from(self.self_test_passed)))?;
        let mut family = out.encode_descriptor(
            "web_config_reload_success",
            "1 if the last change of the web configuration and its certificates was loaded; 0 if an older version is active.",
            None,
            MetricType::Gauge,
        )?;
        if let Some(reloaded) = self.web_config_reloaded {
            family.encode_gauge(&f64::from(u8::from(reloaded)))?;
        }
        let mut family =
            out.encode_descriptor("build", "Version of the running probe.", None, MetricType::Info)?;
        family.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
    /// Says nothing of programs that never ran: the kernel does not count unless it is told to.
    fn encode_runs(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let counted = || self.runs.iter().filter(|runs| runs.count > 0);
        let mut family = out.encode_descriptor(
            "program_runs",
            "Runs of each of the probe's kernel programs while kernel.bpf_stats_enabled was 1.",
            None,
            MetricType::Counter,
        )?;
        for runs in counted() {
            counter(&mut family, &[("program", runs.program.as_str())], runs.count)?;
        }
        let mut family = out.encode_descriptor(
            "program_run",
            "Run time of each of the probe's kernel programs while kernel.bpf_stats_enabled was 1.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for runs in counted() {
            seconds_counter(&mut family, &[("program", runs.program.as_str())], seconds(runs.total_ns))?;
        }
        Ok(())
    }
}
