//! Makes a probe blind after it has measured correctly, and checks that it reports this.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use aya::maps::MapError;
use probe_ebpf::state::ThreadKey;

use crate::etcd::Member;
use crate::etcd::load::{Amount, Load};
use crate::faults::evidence::Stopwatch;
use crate::machine::cancel::Cancel;
use crate::probe::crosscheck;
use crate::probe::loaded_programs;
use crate::probe::metrics::Metrics;
use crate::probe::{Invocation, Probe};

/// How the probe becomes blind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeFault {
    /// Its hooks are detached.
    Detached,
    /// The table of threads is full of unrelated threads.
    ThreadsFull,
    /// `kernel.ftrace_enabled=0` disables the mechanism behind fentry hooks; people do this to measure its
    /// cost.
    FtraceDisabled,
}

/// Disables ftrace, and fentry hooks with it, for the whole machine. Enabled again on drop.
struct FtraceOff(());

impl FtraceOff {
    const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";

    /// Returns `None` where the kernel rejects this while a hook is attached: up to 5.10.
    fn begin() -> anyhow::Result<Option<Self>> {
        match fs::write(Self::SWITCH, "0") {
            Ok(()) => Ok(Some(Self(()))),
            Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot write {}", Self::SWITCH)),
        }
    }
}

impl Drop for FtraceOff {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::SWITCH, "1") {
            eprintln!("cannot write {}: {error}", Self::SWITCH);
        }
    }
}

/// The probe's window; it must report that it is blind within one.
const WINDOW: Duration = Duration::from_secs(10);

/// The time limit on a busy machine. [`WINDOW`] is the limit without the time by which the machine was late.
const BUSY_LIMIT: Duration = Duration::from_mins(2);

/// Runs a probe and an etcd, makes the probe blind, and returns how long it took to report this.
///
/// `faulty` is the build of the probe that can lose its hooks.
pub fn detect(
    fault: ProbeFault,
    faulty: &Path,
    member: Member,
    directory: &Path,
    arguments: &[&str],
) -> anyhow::Result<String> {
    let when = directory.join("blind-now");
    let call = Invocation::new(faulty, directory)
        .environment("FAULT", "detach")
        .environment("FAULT_WHEN", &when.display().to_string())
        .arguments(&["--scrape-interval", "200ms", "--window", &format!("{}s", WINDOW.as_secs())]);
    let probe = call.arguments(arguments).run()?;
    let etcd = member.start()?;
    let some = Load { amount: Amount::Puts(300), connections: 2, value_bytes: 512, ..Load::default() };
    some.start(etcd.endpoint()).wait()?;
    crosscheck::settle(&probe, etcd.name()).context("cannot start with a probe that measures")?;

    let mut ftrace_off = None;
    match fault {
        ProbeFault::Detached => fs::write(&when, "").context("cannot make the probe detach")?,
        ProbeFault::ThreadsFull => fill_threads(probe.pid())?,
        ProbeFault::FtraceDisabled => match FtraceOff::begin()? {
            Some(begun) => ftrace_off = Some(begun),
            None => return Ok(format!("{fault:?}: the kernel rejects it while the hooks are attached")),
        },
    }
    let since = Stopwatch::start();
    // etcd continues, and so does its own count.
    let load = Load { amount: Amount::UntilStopped, ..some }.start(etcd.endpoint());
    let reported = Cancel::default().wait_for(BUSY_LIMIT, || reports_blind(&probe, etcd.name()))?;
    reported.with_context(|| {
        format!("the probe has not reported that it is blind after {BUSY_LIMIT:?}; {:?}", probe.log())
    })?;
    let took = since.stop();
    ensure!(took.when_idle() <= WINDOW, "{fault:?}: reported after {took}, the window is {WINDOW:?}");
    load.stop()?;
    if ftrace_off.take().is_some() {
        let sees = || Ok(passes_self_test(&probe.metrics()?).then_some(()));
        let again = Cancel::default().wait_for(BUSY_LIMIT, sees)?;
        again.context("the probe stays blind after ftrace was enabled again")?;
    }
    if fault == ProbeFault::ThreadsFull {
        let missed = misses(&probe.metrics()?, "threads_full");
        if missed < 1.0 {
            bail!("a thread without a slot was not counted: threads_full {missed}");
        }
    }
    Ok(format!("{fault:?}: reported after {took}"))
}

/// Returns a value once readiness, verdict and metric all report blindness.
fn reports_blind(probe: &Probe, member: &str) -> anyhow::Result<Option<()>> {
    let ready = probe.get("/-/ready")?;
    let metrics = probe.metrics()?;
    let verdict = metrics.value("etcd_disk_probe_verdict", &[("member", member), ("verdict", "blind")]);
    if ready.status != 503 || verdict != Some(1.0) || passes_self_test(&metrics) {
        return Ok(None);
    }
    // The counts may have differed before the self-test failed; from then on the self-test is the first
    // reason.
    Ok(String::from_utf8_lossy(&ready.body).contains("self-test").then_some(()))
}

fn passes_self_test(metrics: &Metrics) -> bool {
    metrics.value("etcd_disk_probe_self_test_success", &[]) == Some(1.0)
}

fn misses(metrics: &Metrics, reason: &str) -> f64 {
    metrics.value("etcd_disk_probe_misses_total", &[("reason", reason)]).unwrap_or(0.0)
}

/// Fills the probe's table of threads with keys of threads that do not exist.
fn fill_threads(pid: u32) -> anyhow::Result<()> {
    let mut threads = loaded_programs::hash_map::<ThreadKey, u32>(pid, "THREAD_BY_KEY")?;
    for n in 1..=1_000_000 {
        let never = ThreadKey { pid_tgid: n, started_ns: u64::MAX };
        match threads.insert(never, 0, 0) {
            Ok(()) => {}
            // E2BIG: it is full.
            Err(MapError::SyscallError(_)) => return Ok(()),
            Err(error) => return Err(error).context("cannot fill the table of threads"),
        }
    }
    bail!("the table of threads has no end")
}
