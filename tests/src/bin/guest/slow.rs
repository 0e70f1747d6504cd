//! A disk with an exact delay for every write: the hooks measure that time.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use probe_ebpf::series::{Op, Role, series};
use probe_tests::etcd::Member;
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::faults::attempts::Attempt;
use probe_tests::faults::evidence::Conditions;
use probe_tests::machine::scratch::Scratch;
use probe_tests::machine::vm::ETCD;
use probe_tests::machine::vm::case::{Case, Hook};
use probe_user::analysis::latency::Latencies;
use probe_user::kernel::{Hook as KernelHook, Kernel, KernelConfig};

use crate::machine::{DELAY, Machine};
use crate::repeat::undisturbed;
use crate::trace::Trace;

/// The name of the measured threads.
const MEASURED: &str = "one-of-etcd";

const SYNCS: usize = 30;

/// Device mapper counts in jiffies of 4 ms and starts in the middle of one.
const JIFFIES_S: f64 = 0.005;

/// One connection, so that each put is a separate sync.
const LOAD: Load = Load {
    amount: Amount::PutsWithin(100, Duration::from_mins(2)),
    connections: 1,
    value_bytes: 512,
    keys: 10,
    tolerant: false,
};

/// Overwrites of a file with allocated blocks: one round trip each.
pub fn overwrites(case: Case, machine: &Machine) -> anyhow::Result<String> {
    let attempt = || overwrite_slowly(case, machine);
    undisturbed(case, attempt, |(measured, timed)| {
        ensure!(measured.count() == SYNCS as u64, "{} syncs were measured, not {SYNCS}", measured.count());
        let figures = compare(&measured, &timed, "user space")?;
        let reported = measured.quantile(0.5).context("there are syncs")?;
        let delay = DELAY.as_secs_f64();
        ensure!(
            (reported - delay).abs() <= delay / 32.0 + JIFFIES_S,
            "p50 {reported:.4} s of a disk of {delay} s"
        );
        Ok(figures)
    })
}

/// Returns the durations that the probe and user space measured. The condition is user space's own.
fn overwrite_slowly(case: Case, machine: &Machine) -> anyhow::Result<Attempt<(Latencies, Vec<f64>)>> {
    let scratch = Scratch::new(slow_disk(machine)?, "overwrites")?;
    let kernel = attach(case.hook, MEASURED)?;
    let path = scratch.path().join("0000000000000000-0000000000000000.wal");
    // Its blocks are allocated before the clock runs.
    fs::write(&path, vec![0; 64 << 10])
        .and_then(|()| fs::File::open(&path)?.sync_all())
        .context("cannot prepare")?;
    let builder = thread::Builder::new().name(MEASURED.to_owned());
    let thread = builder.spawn(move || overwrite(&path)).context("cannot start a thread")?;
    let timed = thread.join().ok().context("a thread panicked")??;

    let measured = syncs_of_wal(&kernel, std::process::id())?;
    let delay = DELAY.as_secs_f64();
    let conditions = Conditions::default()
        .at_least("median seconds of a sync", median(&timed), delay - JIFFIES_S)
        .at_most("median seconds of a sync", median(&timed), delay + JIFFIES_S);
    Ok(conditions.judge((measured, timed)))
}

/// Overwrites and syncs; returns the duration of each sync.
fn overwrite(path: &Path) -> anyhow::Result<Vec<f64>> {
    let file = OpenOptions::new().write(true).open(path).context("cannot open the file")?;
    let mut timed = Vec::new();
    for n in 0..SYNCS {
        file.write_all_at(&[1; 512], n as u64 * 512).context("cannot overwrite")?;
        let started = Instant::now();
        file.sync_data().context("cannot sync")?;
        timed.push(started.elapsed().as_secs_f64());
    }
    Ok(timed)
}

/// The syncs of a real etcd, compared with the kernel's own trace of them.
pub fn wal(case: Case, machine: &Machine) -> anyhow::Result<String> {
    let attempt = || sync_slowly(case, machine);
    undisturbed(case, attempt, |(measured, timed)| {
        // etcd syncs on its own occasionally, possibly between two readings.
        ensure!(
            measured.count().abs_diff(timed.len() as u64) <= 3,
            "{} syncs, {} in the trace",
            measured.count(),
            timed.len()
        );
        compare(&measured, &timed, "the kernel's trace")
    })
}

/// Returns the durations that the probe and the kernel's trace measured. The condition is the trace's own.
fn sync_slowly(case: Case, machine: &Machine) -> anyhow::Result<Attempt<(Latencies, Vec<f64>)>> {
    let wal = Scratch::new(slow_disk(machine)?, "wal")?;
    let scratch = Scratch::new(&machine.disk(case.file_system), "slow-wal")?;
    let kernel = attach(case.hook, "etcd")?;
    let member = Member::new(Path::new(ETCD), "slow", scratch.path()).wal_dir(&wal.path().join("wal"));
    let etcd = member.start()?;
    // etcd's work before it is ready is not part of the load.
    let before = syncs_of_wal(&kernel, etcd.pid())?;
    let trace = Trace::start()?;
    LOAD.start(etcd.endpoint()).wait()?;
    let timed = trace.stop(etcd.pid())?;
    let measured = syncs_of_wal(&kernel, etcd.pid())?.since(&before);
    let conditions = Conditions::default()
        .at_least("traced syncs", timed.len() as f64, SYNCS as f64)
        .at_least("median seconds of a sync", median(&timed), DELAY.as_secs_f64() - JIFFIES_S);
    Ok(conditions.judge((measured, timed)))
}

fn slow_disk(machine: &Machine) -> anyhow::Result<&Path> {
    machine.slow_disk().context("cannot slow a disk down in this machine")
}

fn attach(hook: Hook, name: &str) -> anyhow::Result<Kernel> {
    let hook = match hook {
        Hook::Fentry => KernelHook::Fentry,
        Hook::Auto | Hook::Tracepoint => KernelHook::Tracepoint,
    };
    let config =
        KernelConfig { process_names: vec![name.to_owned()], max_targets: 4, ..KernelConfig::default() };
    Ok(Kernel::attach(hook, &config)?)
}

/// Returns the measured segment syncs of a process.
fn syncs_of_wal(kernel: &Kernel, pid: u32) -> anyhow::Result<Latencies> {
    let process = kernel.processes().into_iter().find(|process| process.pid == pid);
    let process = process.with_context(|| format!("process {pid} was not measured"))?;
    let fdatasync = series(Role::Wal, Op::Fdatasync).context("segments are synced")?;
    Ok(kernel.latencies(process.target, fdatasync))
}

/// Returns the lower median; 0 for no values.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// Compares the two medians: 1/32 is the width of a slot.
fn compare(measured: &Latencies, timed: &[f64], by: &str) -> anyhow::Result<String> {
    let measured = measured.quantile(0.5).context("there are syncs")?;
    let timed = median(timed);
    let reported = format!("p50 {:.2} ms, by {by} {:.2} ms", measured * 1e3, timed * 1e3);
    ensure!((measured - timed).abs() <= timed / 32.0 + 0.001, "{reported}");
    Ok(reported)
}
