//! The result of `check`, and whether its verdict names the fault that the test made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::probe::{Finished, Invocation, Running};

/// How much longer than its window `check` may take: it loads its programs and waits for etcd, for up to half
/// a minute if an endpoint does not match.
const SLACK: Duration = Duration::from_mins(5);

/// The share of the time of slow syncs that the parts must explain on an idle machine.
const EXPLAINED: f64 = 0.95;

/// With fewer slow operations than this one sample is decisive; then one may be missing for each operation.
const MANY_OPERATIONS: u64 = 20;

/// The time that one sample represents: the sampler polls 200 times a second.
const SAMPLE_S: f64 = 0.005;

/// The limit for a WAL sync in etcd's own guidance, in seconds.
const LIMIT_S: f64 = 0.01;

/// The figures that prove that the fault took effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// The p99 of WAL syncs is below this limit, in the kernel and in etcd.
    Healthy(Duration),
    /// The p99 of WAL syncs is above its limit, in the kernel or in etcd.
    Slow,
    /// Anything: the figures do not show this fault.
    Any,
}

/// The output of `check`.
#[derive(Clone, Debug)]
pub struct CheckReport {
    code: Option<i32>,
    report: Value,
    log: String,
    /// See [`CheckReport::sampled_late`].
    late_share: f64,
    late_worst: Duration,
}

/// Runs `check` for `duration` with these arguments; its output goes to files in `directory`.
pub fn check(
    probe: &Path,
    directory: &Path,
    duration: Duration,
    arguments: &[&str],
) -> anyhow::Result<CheckReport> {
    finish(start(probe, directory, duration, arguments)?, duration)
}

/// Starts a `check` like [`check`] without waiting.
pub fn start(
    probe: &Path,
    directory: &Path,
    duration: Duration,
    arguments: &[&str],
) -> anyhow::Result<Running> {
    let duration_ms = format!("{}ms", duration.as_millis());
    let call = Invocation::new(probe, directory);
    let call = call.arguments(&["--duration", &duration_ms, "--output", "json"]).arguments(arguments);
    call.start("check")
}

/// Waits for the end of such a `check`.
pub fn finish(check: Running, duration: Duration) -> anyhow::Result<CheckReport> {
    CheckReport::of(check.wait(duration + SLACK)?)
}

impl CheckReport {
    pub fn of(finished: Finished) -> anyhow::Result<Self> {
        Ok(Self {
            code: finished.code,
            report: finished.json()?,
            log: finished.stderr,
            late_share: 0.0,
            late_worst: Duration::ZERO,
        })
    }

    /// Records by which share of the time, and by how much at worst, a timer like that of the probe's sampler
    /// was late on this machine. The parts of slow operations are incomplete to that degree.
    #[must_use]
    pub fn sampled_late(self, late_share: f64, late_worst: Duration) -> Self {
        Self { late_share, late_worst, ..self }
    }

    fn members(&self) -> anyhow::Result<&Vec<Value>> {
        self.report["members"].as_array().context("members are a list")
    }

    /// Returns the exit code that the verdicts imply: that of the worst, including other etcd processes of
    /// this machine.
    fn code_of_all(&self) -> anyhow::Result<i32> {
        let codes =
            self.members()?.iter().map(|member| match member["verdict"].as_str().unwrap_or_default() {
                "healthy" => (0, 0),
                "too_few_samples" | "endpoint_mismatch" | "blind" => (1, 2),
                // Unhealthy takes precedence over unknown.
                _ => (2, 1),
            });
        Ok(codes.max().map_or(2, |(_, code)| code))
    }

    /// Returns the report on the member with this name.
    pub fn member(&self, name: &str) -> anyhow::Result<Member<'_>> {
        let mut members = self.members()?.iter();
        let member = members.find(|member| member["member"] == name);
        let member = member.with_context(|| format!("{name} is not in {:#}; {}", self.report, self.log))?;
        Ok(Member { check: self, report: member })
    }
}

/// The report on one member.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    check: &'a CheckReport,
    report: &'a Value,
}

impl Member<'_> {
    pub fn verdict(&self) -> &str {
        self.report["verdict"].as_str().unwrap_or_default()
    }

    /// Returns the number of WAL syncs that the kernel counted.
    pub fn syncs(&self) -> u64 {
        self.report["figures"][0]["kernel"]["count"].as_u64().unwrap_or(0)
    }

    /// Returns the paths of the cgroups that use etcd's disk, the worst first.
    pub fn neighbours(&self) -> Vec<&str> {
        let all = self.report["neighbours"].as_array().into_iter().flatten();
        all.filter_map(|neighbour| neighbour["cgroup"].as_str()).collect()
    }

    /// Returns the verdicts that explain the slow time, the largest share first.
    pub fn causes(&self) -> Vec<&str> {
        let all = self.report["causes"].as_array().into_iter().flatten();
        all.filter_map(|cause| cause["verdict"].as_str()).collect()
    }

    /// Returns how far samples differ from the scheduler hook's records, with `--causes exact`: the time
    /// attributed to another cause, as a share of all blocked time of slow operations; and this blocked time
    /// in seconds.
    pub fn disagreement(&self) -> anyhow::Result<(f64, f64)> {
        let slow = &self.report["slow"];
        let by_cause = |field: &str| -> anyhow::Result<BTreeMap<String, f64>> {
            let waits = slow[field].as_array().with_context(|| format!("{field} is no list: {slow}"))?;
            let named = waits
                .iter()
                .filter_map(|wait| Some((wait["cause"].as_str()?.to_owned(), wait["seconds"].as_f64()?)));
            Ok(named.collect())
        };
        let (exact, sampled) = (by_cause("waits")?, by_cause("waits_sampled")?);
        let total_s: f64 = exact.values().sum();
        let causes: BTreeSet<_> = exact.keys().chain(sampled.keys()).collect();
        let of = |waits: &BTreeMap<String, f64>, cause| waits.get(cause).copied().unwrap_or(0.0);
        // An excess at one cause is a deficit at another.
        let off_s =
            causes.into_iter().map(|cause| (of(&exact, cause) - of(&sampled, cause)).abs()).sum::<f64>()
                / 2.0;
        println!("exact {exact:.3?}, sampled {sampled:.3?}");
        Ok((off_s / total_s.max(f64::EPSILON), total_s))
    }

    fn p99_s(&self, figure: usize, side: &str) -> f64 {
        self.report["figures"][figure][side]["p99_s"].as_f64().unwrap_or(0.0)
    }

    fn mean_s(&self, figure: usize, side: &str) -> f64 {
        self.report["figures"][figure][side]["mean_s"].as_f64().unwrap_or(0.0)
    }

    /// Returns the time of both operations in the kernel, and their additional time in etcd, in seconds.
    pub fn kernel_and_beyond_s(&self) -> (f64, f64) {
        [0, 1].into_iter().fold((0.0, 0.0), |(kernel_s, beyond_s), figure| {
            let count = self.report["figures"][figure]["kernel"]["count"].as_f64().unwrap_or(0.0);
            let mean_s = self.mean_s(figure, "kernel");
            (kernel_s + count * mean_s, beyond_s + count * (self.mean_s(figure, "etcd") - mean_s))
        })
    }

    /// Returns verdict, reason and figures in one line, for the output of a test.
    pub fn summary(&self) -> String {
        let figure = |figure: usize, name: &str| {
            let kernel = &self.report["figures"][figure]["kernel"];
            format!(
                "{name}: {} events, kernel p50 {:.1} p99 {:.1} ms, etcd p99 {:.1} ms, {:.1} ms more on average",
                kernel["count"],
                kernel["p50_s"].as_f64().unwrap_or(0.0) * 1e3,
                self.p99_s(figure, "kernel") * 1e3,
                self.p99_s(figure, "etcd") * 1e3,
                (self.mean_s(figure, "etcd") - self.mean_s(figure, "kernel")) * 1e3,
            )
        };
        let causes: Vec<_> = self.report["causes"].as_array().into_iter().flatten().collect();
        let shares = causes.iter().map(|cause| {
            let share = cause["share"].as_f64().unwrap_or(0.0) * 100.0;
            format!("{} {share:.0} %", cause["verdict"].as_str().unwrap_or_default())
        });
        let causes: Vec<_> = shares.collect();
        format!(
            "{} ({}); {}; {}; in flight {:.2} s; causes: {}; parts: {}",
            self.verdict(),
            self.report["reason"].as_str().unwrap_or_default(),
            figure(0, "WAL syncs"),
            figure(1, "commits"),
            self.report["in_flight_s"].as_f64().unwrap_or(0.0),
            if causes.is_empty() { "none".to_owned() } else { causes.join(", ") },
            self.parts().map_or_else(|| "none".to_owned(), |parts| parts.to_string()),
        )
    }

    /// Returns the parts of the time of slow operations, if there were any.
    fn parts(&self) -> Option<Parts> {
        let slow = &self.report["slow"];
        let seconds = |value: &Value| value.as_f64().unwrap_or(0.0);
        let waits = slow["waits"].as_array().into_iter().flatten();
        let named = waits.filter(|wait| wait["cause"] != "unsampled").map(|wait| seconds(&wait["seconds"]));
        let parts = Parts {
            operations: slow["operations"].as_u64()?,
            total_s: seconds(&slow["total_s"]),
            known_s: seconds(&slow["on_cpu_s"]) + seconds(&slow["run_queue_s"]) + named.sum::<f64>(),
        };
        (parts.operations > 0).then_some(parts)
    }

    /// Fails unless the fault had its effect, the verdict is this one, the exit code agrees, and the parts of
    /// the slow time add up; returns the summary.
    pub fn expect(&self, verdict: &str, effect: Effect) -> anyhow::Result<String> {
        let summary = self.summary();
        let [kernel, etcd] = ["kernel", "etcd"].map(|side| self.p99_s(0, side));
        match effect {
            Effect::Healthy(limit) => {
                let limit_s = limit.as_secs_f64();
                ensure!(self.syncs() >= 100, "too few syncs for a p99: {summary}");
                ensure!(kernel < limit_s && etcd < limit_s, "the disk is slow without a fault: {summary}");
            }
            Effect::Slow => {
                ensure!(self.syncs() >= 20, "too few syncs to be sure: {summary}");
                ensure!(kernel.max(etcd) > 1.5 * LIMIT_S, "the fault has no effect: {summary}");
            }
            Effect::Any => {}
        }
        ensure!(self.verdict() == verdict, "not {verdict}: {summary}");
        let code = self.check.code_of_all()?;
        ensure!(self.check.code == Some(code), "exit code {:?}, not {code}: {summary}", self.check.code);
        if effect == Effect::Slow
            && let Some(parts) = self.parts()
        {
            ensure!(
                parts.are_the_whole(self.check.late_share, self.check.late_worst),
                "the parts are not the whole: {summary}"
            );
        }
        Ok(summary)
    }
}

/// The parts of the time of slow operations.
struct Parts {
    operations: u64,
    total_s: f64,
    /// On a CPU, waiting for one, or waiting for a named cause.
    known_s: f64,
}

impl Parts {
    fn are_the_whole(&self, late_share: f64, late_worst: Duration) -> bool {
        let sample_s = SAMPLE_S + late_worst.as_secs_f64();
        let resolved_s =
            if self.operations < MANY_OPERATIONS { self.operations as f64 * sample_s } else { 0.0 };
        self.known_s >= ((EXPLAINED - late_share) * self.total_s).min(self.total_s - resolved_s)
    }
}

impl std::fmt::Display for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { operations, total_s, known_s } = self;
        write!(f, "{known_s:.3} s of {total_s:.3} s in {operations} slow operations")
    }
}
