//! The probe and a real etcd under load: every event is counted, with every hook and on every file system.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use probe_ebpf::series::Op;
use probe_tests::etcd::Member;
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::faults::neighbours::{self, Neighbours};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::scratch::Scratch;
use probe_tests::machine::vm::case::{Case, Hook};
use probe_tests::machine::vm::{ETCD, PROBE};
use probe_tests::probe::crosscheck::{self, METRICS};
use probe_tests::probe::{Invocation, Probe};
use probe_user::kernel::Hook as KernelHook;

use crate::machine::{BUSY_DISK, Machine};

/// Small values: a sync for every one or two puts.
const SMALL: Load = Load {
    amount: Amount::PutsWithin(200, Duration::from_mins(3)),
    connections: 2,
    value_bytes: 512,
    keys: 100,
    tolerant: false,
};

/// 70 MB, more than a segment of 64 MB: the WAL is rotated.
const LARGE: Load =
    Load { amount: Amount::Puts(70), connections: 1, value_bytes: 1_000_000, keys: 2, tolerant: false };

/// With fewer syncs than this the case shows little.
const SYNCS: u64 = 100;

/// The switch for the kernel's run statistics of programs.
const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The entry and the exit of each system call.
const HOOKS: usize = 2 * Op::ALL.len();

/// The time limit for etcd's last commit and for the probe to count it.
const REST_LIMIT: Duration = Duration::from_mins(2);

pub fn exact(case: Case, machine: &Machine) -> anyhow::Result<String> {
    exact_by(case, machine, |_| Ok(()))
}

/// Runs a check with a probe that was checked before.
fn exact_by(
    case: Case,
    machine: &Machine,
    check: impl FnOnce(&Probe) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let neighbours = Neighbours::start(Path::new(BUSY_DISK))?;
    let scratch = Scratch::new(&machine.disk(case.file_system), "exact")?;
    let probe = start_probe(case.hook, &scratch)?;
    assert_hook(&probe, case.hook.as_str())?;
    check(&probe)?;
    let figures = reconcile(&probe, scratch.path()).with_context(|| format!("misses: {}", misses(&probe)))?;
    let syncs = neighbours.stop()?;
    Ok(format!("{figures}; {} neighbours in the same calls, {syncs} syncs of theirs", neighbours::COUNT))
}

pub fn preempted(case: Case, machine: &Machine) -> anyhow::Result<String> {
    fs::write(BPF_STATS, "1").with_context(|| format!("cannot write {BPF_STATS}"))?;
    let scratch = Scratch::new(&machine.disk(case.file_system), "preempted")?;
    assert_spares(&start_probe(case.hook, &scratch)?, 0).context("before it is switched")?;
    let before = machine.preempt("full")?;
    let outcome = exact_by(case, machine, |probe| assert_spares(probe, HOOKS));
    machine.preempt(&before)?;
    fs::write(BPF_STATS, "0").with_context(|| format!("cannot write {BPF_STATS}"))?;
    Ok(format!("{}; a spare on each hook, and none while it was {before}", outcome?))
}

/// Returns how many hooks have a second program, and checks that the kernel ran every one: the self-test
/// exercises all of them.
fn assert_spares(probe: &Probe, expected: usize) -> anyhow::Result<()> {
    let metrics = probe.metrics()?;
    let runs: Vec<_> = metrics.all("etcd_disk_probe_program_runs_total", &[]).collect();
    let on_hooks = runs.iter().filter(|runs| runs.labels["program"].starts_with('f'));
    ensure!(on_hooks.clone().count() == HOOKS + expected, "{} programs run: {runs:?}", on_hooks.count());
    ensure!(on_hooks.clone().all(|runs| runs.value > 0.0), "some never ran: {runs:?}");
    Ok(())
}

/// Puts load on an etcd and compares the probe's counts with etcd's own.
fn reconcile(probe: &Probe, directory: &Path) -> anyhow::Result<String> {
    let etcd = Member::new(Path::new(ETCD), "matrix", directory).start()?;
    SMALL.start(etcd.endpoint()).wait()?;
    LARGE.start(etcd.endpoint()).wait()?;
    let mut last = None;
    let equal = Cancel::default().wait_for(REST_LIMIT, || {
        let own = etcd.observations()?;
        let figures = crosscheck::settle(probe, etcd.name())?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of events")]
        let kernel = figures.map(|figure| figure.kernel as u64);
        let own = [own.wal_fsync, own.backend_commit];
        last = Some((own, kernel));
        Ok((own == kernel).then_some(own))
    })?;
    let counts = equal.with_context(|| format!("the counts differ: {last:?}"))?;
    ensure!(counts[0] >= SYNCS, "only {} syncs", counts[0]);
    let rotations = etcd.rotations()?;
    ensure!(rotations >= 1, "the WAL was not rotated");
    nothing_missed(probe)?;
    let texts: Vec<_> = METRICS
        .iter()
        .zip(counts)
        .map(|(metric, count)| format!("{metric} kernel {count} = etcd {count}, difference 0"))
        .collect();
    Ok(format!("{}; {rotations} rotation; misses: {}", texts.join("; "), misses(probe)))
}

pub fn chosen(case: Case, machine: &Machine) -> anyhow::Result<String> {
    let scratch = Scratch::new(&machine.disk(case.file_system), "chosen")?;
    let probe = start_probe(case.hook, &scratch)?;
    let expected = if machine.has_fentry() { KernelHook::Fentry } else { KernelHook::Tracepoint };
    assert_hook(&probe, expected.as_str())?;
    let ready_after = probe.ready_after().context("a probe that runs was ready")?;
    Ok(format!("{}, ready after {:.1} s", expected.as_str(), ready_after.as_secs_f64()))
}

fn start_probe(hook: Hook, scratch: &Scratch) -> anyhow::Result<Probe> {
    let call = Invocation::new(Path::new(PROBE), scratch.path());
    let call = call.arguments(&["--scrape-interval", "200ms"]);
    // Without the flag the probe chooses the hook.
    let call = if hook == Hook::Auto { call } else { call.arguments(&["--hook", hook.as_str()]) };
    call.run()
}

fn assert_hook(probe: &Probe, expected: &str) -> anyhow::Result<()> {
    let hooks = probe.metrics()?.label_values("etcd_disk_probe_hook_info", "hook");
    ensure!(hooks == [expected], "the hook is {hooks:?}, not {expected}");
    Ok(())
}

/// Checks that nothing was missed except the syncs of etcd's logger, which syncs its standard error.
fn nothing_missed(probe: &Probe) -> anyhow::Result<()> {
    let metrics = probe.metrics()?;
    for sample in metrics.all("etcd_disk_probe_misses_total", &[]).filter(|sample| sample.value > 0.0) {
        let reason = sample.labels.get("reason").map_or("", String::as_str);
        // A program that the kernel skips is no missed event: the hook's other program observed it, otherwise
        // the counts differ. A stack that could not be read is a cause without a name, and no missed event
        // either.
        let harmless = ["unknown_file", "program_skipped", "stack_unreadable"].contains(&reason);
        ensure!(harmless, "{} misses of {reason}", sample.value);
    }
    Ok(())
}

/// Returns all misses, for the message of a failure.
fn misses(probe: &Probe) -> String {
    let Ok(metrics) = probe.metrics() else { return "cannot be read".to_owned() };
    let all = metrics.all("etcd_disk_probe_misses_total", &[]).filter(|sample| sample.value > 0.0);
    let texts: Vec<_> = all
        .map(|sample| format!("{} {}", sample.value, sample.labels.get("reason").map_or("", String::as_str)))
        .collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}
