//! What the probe tells of itself.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType};

use super::{Snapshot, counter};

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
        let mut family =
            out.encode_descriptor("hook", "How the programs are attached.", None, MetricType::Info)?;
        family.encode_info(&[("hook", self.hook)])?;
        let mut family = out.encode_descriptor(
            "self_test_success",
            "1 if the probe's own events, played every few seconds, all arrived through the hook; 0: it is blind.",
            None,
            MetricType::Gauge,
        )?;
        family.encode_gauge(&f64::from(u8::from(self.self_test_passed)))?;
        let mut family = out.encode_descriptor(
            "web_config_reload_success",
            "1 if the web configuration and its certificates could be loaded when they last changed; 0: older ones are in force.",
            None,
            MetricType::Gauge,
        )?;
        if let Some(reloaded) = self.web_config_reloaded {
            family.encode_gauge(&f64::from(u8::from(reloaded)))?;
        }
        let mut family = out.encode_descriptor("build", "The probe that runs.", None, MetricType::Info)?;
        family.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}
