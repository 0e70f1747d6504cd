//! Families about the probe itself.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{MetricFamily, counter, seconds_counter};
use crate::analysis::{latency::seconds, snapshot::MetricsSnapshot};

const MISSES: MetricFamily = MetricFamily::counter("misses", "Events that were not measured, by reason.");

const HOOK: MetricFamily = MetricFamily::info("hook", "How the kernel programs are attached.");

const SELF_TEST_SUCCESS: MetricFamily = MetricFamily::gauge(
    "self_test_success",
    "1 if all events of the last self-test, which runs every few seconds, arrived through the hook; 0 \
     if the probe is blind.",
);

const WEB_CONFIG_RELOAD_SUCCESS: MetricFamily = MetricFamily::gauge(
    "web_config_reload_success",
    "1 if the last change of the web configuration and its certificates was loaded; 0 if an older \
     version is active.",
);

const BUILD: MetricFamily = MetricFamily::info("build", "Version of the running probe.");

const PROGRAM_RUNS: MetricFamily = MetricFamily::counter(
    "program_runs",
    "Runs of each of the probe's kernel programs while kernel.bpf_stats_enabled was 1.",
);

const PROGRAM_RUN: MetricFamily = MetricFamily::counter(
    "program_run",
    "Run time of each of the probe's kernel programs while kernel.bpf_stats_enabled was 1.",
)
.seconds();

impl MetricsSnapshot {
    pub(super) fn encode_probe(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = MISSES.begin(out)?;
        for (reason, count) in &self.misses {
            counter(&mut family, &[("reason", *reason)], *count)?;
        }
        self.encode_runs(out)?;
        let mut family = HOOK.begin(out)?;
        family.encode_info(&[("hook", self.hook)])?;
        let mut family = SELF_TEST_SUCCESS.begin(out)?;
        family.encode_gauge(&f64::from(u8::from(self.self_test_passed)))?;
        let mut family = WEB_CONFIG_RELOAD_SUCCESS.begin(out)?;
        if let Some(reloaded) = self.web_config_reloaded {
            family.encode_gauge(&f64::from(u8::from(reloaded)))?;
        }
        let mut family = BUILD.begin(out)?;
        family.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }

    /// Omits programs without runs: the kernel counts runs only if `kernel.bpf_stats_enabled` is 1.
    fn encode_runs(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let counted = || self.runs.iter().filter(|runs| runs.count > 0);
        let mut family = PROGRAM_RUNS.begin(out)?;
        for runs in counted() {
            counter(&mut family, &[("program", runs.program.as_str())], runs.count)?;
        }
        let mut family = PROGRAM_RUN.begin(out)?;
        for runs in counted() {
            seconds_counter(&mut family, &[("program", runs.program.as_str())], seconds(runs.total_ns))?;
        }
        Ok(())
    }
}
