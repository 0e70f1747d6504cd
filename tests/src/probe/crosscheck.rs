//! A member's reconciliation, read from the probe's metrics.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::machine::cancel::Cancel;
use crate::machine::http::Endpoint;
use crate::probe::Probe;
use crate::probe::metrics::Metrics;

/// etcd's two disk metrics, as the label `metric` names them.
pub const METRICS: [&str; 2] = ["wal_fsync", "backend_commit"];

/// The time limit for the probe to agree with an idle etcd.
const SETTLE_LIMIT: Duration = Duration::from_mins(1);

/// One disk metric of one member at one scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Crosscheck {
    pub metric: &'static str,
    pub difference: f64,
    /// `None` before the first scrape of etcd.
    pub uncertainty: Option<f64>,
    /// As of the last scrape of etcd.
    pub kernel: f64,
    /// The current count of the histogram.
    pub measured: f64,
    pub etcd: f64,
    pub unverified: f64,
    pub sandwich: f64,
    pub dominance: f64,
}

/// Returns both, or `None` while the probe does not know the member.
pub fn of(metrics: &Metrics, member: &str) -> Option<[Crosscheck; 2]> {
    let figure = |metric: &'static str| {
        let labels = [("member", member), ("metric", metric)];
        let with =
            |name: &str, key: &str, value: &str| metrics.value(name, &[labels[0], labels[1], (key, value)]);
        let events = "etcd_disk_probe_crosscheck_events_total";
        let violations = "etcd_disk_probe_crosscheck_violations_total";
        Some(Crosscheck {
            metric,
            difference: metrics.value("etcd_disk_probe_crosscheck_difference", &labels)?,
            uncertainty: metrics.value("etcd_disk_probe_crosscheck_origin_uncertainty", &labels),
            kernel: with(events, "source", "kernel")?,
            measured: metrics
                .value(&format!("etcd_disk_probe_{metric}_duration_seconds_count"), &labels[..1])?,
            etcd: with(events, "source", "etcd")?,
            unverified: metrics.value("etcd_disk_probe_crosscheck_unverified_total", &labels)?,
            sandwich: with(violations, "invariant", "sandwich")?,
            dominance: with(violations, "invariant", "dominance")?,
        })
    };
    Some([figure(METRICS[0])?, figure(METRICS[1])?])
}

impl Crosscheck {
    /// Returns whether every event is matched, with no event since the last scrape.
    pub fn is_settled(&self) -> bool {
        let same = |a: f64, b: f64| (a - b).abs() < 0.5;
        self.is_exact() && same(self.kernel, self.etcd + self.unverified) && same(self.kernel, self.measured)
    }

    /// Returns whether there is no difference and the origin is known.
    pub fn is_exact(&self) -> bool {
        self.uncertainty.is_some_and(|events| events.abs() < 0.5) && self.agrees()
    }

    /// Returns whether there is no difference, as far as the origin is known.
    pub fn agrees(&self) -> bool {
        [self.difference, self.sandwich, self.dominance].iter().all(|value| value.abs() < 0.5)
    }
}

/// Waits until the probe agrees with an idle etcd on every event; an error shows the last figures.
pub fn settle(probe: &Probe, member: &str) -> anyhow::Result<[Crosscheck; 2]> {
    settle_at(&probe.endpoint(), member)
}

/// Like [`settle`], for a probe that is known by its address only.
pub fn settle_at(probe: &Endpoint, member: &str) -> anyhow::Result<[Crosscheck; 2]> {
    let mut last = None;
    let settled = Cancel::default().wait_for(SETTLE_LIMIT, || {
        last = of(&Metrics::parse(&probe.get("/metrics")?.text()?)?, member);
        Ok(last.clone().filter(|figures| figures.iter().all(Crosscheck::is_settled)))
    })?;
    settled.with_context(|| format!("{member} is not reconciled after {SETTLE_LIMIT:?}: {last:?}"))
}

/// Reads the probe's metrics at a fixed interval on a separate thread and checks every reading.
pub struct Watch {
    stop: Cancel,
    thread: Option<JoinHandle<anyhow::Result<Seen>>>,
}

/// The result of a watch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Readings that contained the member.
    pub readings: u64,
}

/// The condition for every reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Difference, uncertainty and violations are 0, and counters do not decrease.
    Exact,
    /// Counters do not decrease.
    Monotone,
}

impl Watch {
    /// Starts reading.
    pub fn start(probe: &Probe, members: &[&str], demand: Demand, every: Duration) -> Self {
        Self::start_at(probe.endpoint(), members, demand, every)
    }

    /// Like [`Watch::start`], for a probe that is known by its address only.
    pub fn start_at(endpoint: Endpoint, members: &[&str], demand: Demand, every: Duration) -> Self {
        let stop = Cancel::default();
        let ended = stop.clone();
        let members: Vec<String> = members.iter().map(|&member| member.to_owned()).collect();
        let thread = thread::spawn(move || watch(&endpoint, &members, demand, every, &ended));
        Self { stop, thread: Some(thread) }
    }

    /// Ends the watch; returns the error of the first reading that violated the condition.
    pub fn stop(mut self) -> anyhow::Result<Seen> {
        self.stop.cancel();
        let thread = self.thread.take().context("a watch is stopped once")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn watch(
    endpoint: &Endpoint,
    members: &[String],
    demand: Demand,
    every: Duration,
    stop: &Cancel,
) -> anyhow::Result<Seen> {
    let mut before: Vec<Option<[Crosscheck; 2]>> = vec![None; members.len()];
    let mut seen = Seen::default();
    while !stop.is_cancelled() {
        let metrics = Metrics::parse(&endpoint.get("/metrics")?.text()?)?;
        for (member, before) in members.iter().zip(before.iter_mut()) {
            let Some(now) = of(&metrics, member) else {
                if before.is_some() {
                    bail!("{member} vanished");
                }
                continue;
            };
            // Before its first scrape a metric has no origin.
            let scraped = now.iter().all(|figure| figure.uncertainty.is_some());
            if demand == Demand::Exact && scraped && !now.iter().all(Crosscheck::is_exact) {
                bail!("{member} is not exact at reading {}: {now:#?}", seen.readings);
            }
            if let Some(before) = before {
                for (before, now) in before.iter().zip(&now) {
                    let fell = now.kernel < before.kernel
                        || now.etcd < before.etcd
                        || now.unverified < before.unverified;
                    if fell {
                        bail!("a counter of {member} fell: {before:#?} to {now:#?}");
                    }
                }
            }
            seen.readings += u64::from(scraped);
            *before = Some(now);
        }
        thread::sleep(every);
    }
    Ok(seen)
}
