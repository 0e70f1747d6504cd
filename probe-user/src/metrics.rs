//! The probe's own metrics: the one place that names them; and etcd's own, which are passed on.
//!
//! [`Snapshot`] is what they are made of; [`encode`] is pure, so that a test can hold its text against a file.

mod format;
mod passed_on;
mod snapshot;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

pub use format::Format;
pub use snapshot::{Figure, MemberSnapshot, Operation, Snapshot};

use crate::{
    causes::Cause,
    crosscheck::Invariant,
    etcd::Reason,
    latency::{BOUNDS_NS, Latencies, seconds},
    monitor::{Metric, certificates::Kind},
    verdict::Verdict,
};

const PREFIX: &str = "etcd_disk_probe";

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Returns the whole exposition.
///
/// # Errors
/// None in practice: writing to a string cannot fail.
pub fn encode(snapshot: Snapshot, format: Format) -> Result<String, fmt::Error> {
    let copies: Vec<_> = snapshot
        .members
        .iter()
        .filter_map(|member| Some((member.name.clone(), member.passed_on.clone()?)))
        .collect();
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(snapshot));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    if format == Format::Prometheus {
        out = format::to_prometheus(&out);
    }
    passed_on::append(&mut out, &copies, format);
    Ok(out)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // The registry adds the prefix, the encoder the unit and `_total`.
        self.encode_latencies(&mut encoder)?;
        self.encode_operations(&mut encoder)?;
        self.encode_crosscheck(&mut encoder)?;
        self.encode_etcd(&mut encoder)?;
        self.encode_probe(&mut encoder)
    }
}

impl Snapshot {
    fn encode_latencies(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let twins = [
            (
                "wal_fsync_duration",
                "Time of WAL syncs in the kernel, the twin of etcd_disk_wal_fsync_duration_seconds.",
            ),
            (
                "backend_commit_duration",
                "Time of backend commits in the kernel, from the first write to the end of the second sync, the twin of \
                 etcd_disk_backend_commit_duration_seconds.",
            ),
        ];
        for (metric, (name, help)) in Metric::ALL.into_iter().zip(twins) {
            let mut family =
                out.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
            for member in &self.members {
                histogram(
                    &mut family,
                    &[("member", member.name.as_str())],
                    &member.figures[metric as usize].latencies,
                )?;
            }
        }
        let mut family = out.encode_descriptor(
            "wal_rotation_duration",
            "Time of WAL rotations, from the truncation of the full segment to the sync of the directory, waiting for \
             pre-allocation included.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for member in &self.members {
            histogram(&mut family, &[("member", member.name.as_str())], &member.rotation)?;
        }
        Ok(())
    }

    fn encode_operations(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = out.encode_descriptor(
            "operation_duration",
            "Time of the system calls that etcd makes on its files.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (member, operation) in self.operations() {
            histogram(&mut family, &operation.labels(&member.name), &operation.latencies)?;
        }
        let mut family = out.encode_descriptor(
            "operation_bytes",
            "Bytes that etcd wrote to its files.",
            None,
            MetricType::Counter,
        )?;
        for (member, operation) in self.operations().filter(|(_, operation)| operation.op.returns_bytes()) {
            counter(&mut family, &operation.labels(&member.name), operation.latencies.bytes)?;
        }
        let mut family = out.encode_descriptor(
            "operation_time",
            "Time of the system calls that etcd makes on its files, by how its threads spent it: on a processor, waiting for \
             one, blocked.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            // Where the kernel keeps no account, nothing is said: a part would be a guess.
            let Some(time) = &operation.time else { continue };
            let states = [
                ("on_cpu", time.on_cpu_ns),
                ("run_queue", time.run_queue_ns),
                ("blocked", time.blocked_ns()),
            ];
            for (state, ns) in states {
                seconds_counter(&mut family, &[member, file, op, ("state", state)], seconds(ns))?;
            }
        }
        let mut family = out.encode_descriptor(
            "wait",
            "Time that slow system calls were blocked, by what they waited for.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            for (cause, ns) in Cause::ALL.into_iter().zip(operation.waits).filter(|(_, ns)| *ns > 0) {
                seconds_counter(&mut family, &[member, file, op, ("cause", cause.as_str())], seconds(ns))?;
            }
        }
        let mut family = out.encode_descriptor(
            "operation_errors",
            "System calls of etcd's that failed.",
            None,
            MetricType::Counter,
        )?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            for (errno, count) in &operation.errors {
                counter(&mut family, &[member, file, op, ("errno", errno)], *count)?;
            }
        }
        let mut family = out.encode_descriptor(
            "operation_in_flight",
            "Age of the oldest operation that has not returned, 0 for none.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for member in &self.members {
            for (file, age_s) in &member.in_flight_s {
                gauge(&mut family, &[("member", member.name.as_str()), ("file", file)], *age_s)?;
            }
        }
        Ok(())
    }

    fn encode_crosscheck(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = out.encode_descriptor(
            "crosscheck_events",
            "Events that both the kernel and etcd could count, by who counted them.",
            None,
            MetricType::Counter,
        )?;
        for (member, metric, figure) in self.figures() {
            for (source, count) in [("kernel", figure.kernel_events), ("etcd", figure.etcd_events)] {
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
            gauge(&mut family, &[("member", member), ("metric", metric)], figure.difference as f64)?;
        }
        let mut family = out.encode_descriptor(
            "crosscheck_origin_uncertainty",
            "Events by which it is unknown how much etcd had counted before the probe came, 0 when pinned; absent until \
             etcd was scraped.",
            None,
            MetricType::Gauge,
        )?;
        for (member, metric, figure) in self.figures() {
            if let Some(events) = figure.uncertainty {
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
            counter(&mut family, &[("member", member), ("metric", metric)], figure.unverified)?;
        }
        let mut family = out.encode_descriptor(
            "crosscheck_violations",
            "Scrapes that broke an invariant: the probe lost or doubled events, or the endpoint is another process's.",
            None,
            MetricType::Counter,
        )?;
        for (member, metric, figure) in self.figures() {
            for (invariant, count) in Invariant::ALL.into_iter().zip(figure.violations) {
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
            seconds_counter(&mut family, &[("member", member), ("metric", metric)], figure.overhead_s)?;
        }
        Ok(())
    }

    fn encode_etcd(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = out.encode_descriptor(
            "verdict",
            "1 for the current verdict, 0 for the others.",
            None,
            MetricType::Gauge,
        )?;
        for member in &self.members {
            for verdict in Verdict::ALL {
                let labels = [("member", member.name.as_str()), ("verdict", verdict.as_str())];
                gauge(&mut family, &labels, f64::from(u8::from(verdict == member.verdict)))?;
            }
        }
        let mut family = out.encode_descriptor(
            "etcd_up",
            "Whether etcd lives and its last scrape succeeded.",
            None,
            MetricType::Gauge,
        )?;
        for member in &self.members {
            gauge(&mut family, &[("member", member.name.as_str())], f64::from(u8::from(member.etcd_up)))?;
        }
        let mut family = out.encode_descriptor(
            "etcd_scrape_age",
            "Age of the last copy of etcd's own metrics; they are passed on only while it is no older than 5 s and etcd is up.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for member in &self.members {
            if let Some(age_s) = member.scrape_age_s {
                gauge(&mut family, &[("member", member.name.as_str())], age_s)?;
            }
        }
        let mut family = out.encode_descriptor(
            "etcd_scrape_errors",
            "Scrapes of etcd that failed, by reason; every reason is there from the start.",
            None,
            MetricType::Counter,
        )?;
        for member in &self.members {
            // Those of 0, too: `rate()` sees the first failure only of a series that was there before it.
            for reason in Reason::ALL.map(Reason::as_str) {
                let count = member.scrape_errors.get(reason).copied().unwrap_or(0);
                counter(&mut family, &[("member", member.name.as_str()), ("reason", reason)], count)?;
            }
        }
        let mut family = out.encode_descriptor(
            "etcd_certificate_expiry_timestamp",
            "When the certificates in use end, in seconds since 1970: of a chain the first link to end, of a bundle of \
             authorities the next one.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for member in &self.members {
            for (kind, end_s) in Kind::ALL.into_iter().zip(member.certificate_ends_s) {
                let Some(end_s) = end_s else { continue };
                let labels = [("member", member.name.as_str()), ("certificate", kind.as_str())];
                gauge(&mut family, &labels, end_s as f64)?;
            }
        }
        let mut family =
            out.encode_descriptor("member", "What is known of a member.", None, MetricType::Info)?;
        for member in &self.members {
            family.encode_info(&[
                ("member", member.name.as_str()),
                ("data_dir", &member.data_dir),
                ("device", &member.device),
                ("filesystem", &member.filesystem),
                ("version", &member.version),
            ])?;
        }
        Ok(())
    }

    fn encode_probe(&self, out: &mut DescriptorEncoder) -> fmt::Result {
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

    fn figures(&self) -> impl Iterator<Item = (&str, &'static str, &Figure)> {
        self.members.iter().flat_map(|member| {
            let figures = Metric::ALL.into_iter().zip(&member.figures);
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

fn histogram(family: &mut MetricEncoder, labels: &impl EncodeLabelSet, seen: &Latencies) -> fmt::Result {
    let at_most = seen.at_most(&BOUNDS_NS);
    let mut below = 0;
    let mut buckets = [(f64::INFINITY, 0); BOUNDS_NS.len() + 1];
    for ((bucket, bound_ns), count) in buckets.iter_mut().zip(BOUNDS_NS).zip(at_most) {
        *bucket = (bound_ns as f64 / 1e9, count - below);
        below = count;
    }
    let count = seen.count();
    buckets[BOUNDS_NS.len()].1 = count - below;
    family.encode_family(labels)?.encode_histogram::<NoLabelSet>(seen.sum_seconds(), count, &buckets, None)
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
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use probe_ebpf::series::OPERATIONS;

    use super::*;
    use crate::{
        etcd::{AllowList, PassedOn, Scrape, allow_list::DEFAULT},
        latency::TimeSpent,
    };

    fn latencies(latencies_ns: &[u64]) -> Latencies {
        let mut all = Latencies::default();
        for latency_ns in latencies_ns {
            all.record(*latency_ns);
        }
        all.bytes = 4096;
        all
    }

    fn passed_on() -> PassedOn {
        let etcds = include_bytes!("../testdata/etcd-3.4.23-metrics.txt");
        let allowed = AllowList::parse(&DEFAULT.map(str::to_owned)).expect("a list");
        Scrape::parse(etcds, &allowed).expect("an etcd's").passed_on
    }

    fn snapshot() -> Snapshot {
        let figure = |latencies| Figure {
            latencies,
            kernel_events: 12,
            etcd_events: 11,
            difference: -1,
            uncertainty: Some(0),
            unverified: 3,
            violations: [1, 0],
            overhead_s: 0.25,
        };
        let (role, op) = OPERATIONS[0];
        let errors = BTreeMap::from([("ENOSPC", 2)]);
        let time = TimeSpent { sum_ns: 9_000, on_cpu_ns: 4_000, run_queue_ns: 3_000, ..TimeSpent::default() };
        let mut waits = [0; Cause::ALL.len()];
        waits[Cause::Flush as usize] = 2_000;
        Snapshot {
            hook: "tracepoint",
            self_test_passed: true,
            web_config_reloaded: Some(true),
            misses: vec![("unknown_file", 4)],
            members: vec![MemberSnapshot {
                name: "a \"quoted\" name".to_owned(),
                figures: [figure(latencies(&[500_000, 1_000_000, 70_000_000_000])), figure(latencies(&[]))],
                rotation: latencies(&[20_000_000]),
                operations: vec![Operation {
                    role,
                    op,
                    latencies: latencies(&[9_000]),
                    time: Some(time),
                    waits,
                    errors,
                }],
                in_flight_s: vec![("wal", 1.5)],
                verdict: Verdict::Healthy,
                etcd_up: true,
                scrape_age_s: Some(0.5),
                passed_on: Some(Arc::new(passed_on())),
                scrape_errors: BTreeMap::from([("refused", 1)]),
                certificate_ends_s: [Some(1_924_905_600), Some(1_796_000_000), None],
                data_dir: "/var/lib/etcd".to_owned(),
                device: "/dev/vda1".to_owned(),
                filesystem: "ext4".to_owned(),
                version: "3.5.16".to_owned(),
            }],
        }
    }

    /// Renamed metrics show in the diff. `UPDATE_GOLDEN=1 cargo test -p probe-user` writes the files anew.
    #[test]
    fn the_whole_text_is_as_recorded() {
        for (format, file) in
            [(Format::OpenMetrics, "metrics.openmetrics"), (Format::Prometheus, "metrics.prom")]
        {
            let text = encode(snapshot(), format).expect("strings take any text");
            let path = format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&path, &text).expect("the file can be written");
            }
            let golden = std::fs::read_to_string(&path).expect("the file is in the repository");
            assert_eq!(text, golden, "{file}");
        }
    }
}
