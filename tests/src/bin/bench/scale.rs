//! Scalability: operations per second, threads, targets, and the memory for all of them.

use anyhow::{Context, bail, ensure};
use probe_ebpf::series::{Op, Role, series};
use probe_user::kernel::{Kernel, start};

use crate::Options;
use crate::figures::Spread;
use crate::memory::KernelMemory;
use crate::table::{Cell, Table};
use crate::tracers::{Stage, Tracer, Tracing, always_on};
use crate::worker::{Call, Made, Worker};

/// The number of processes that run operations concurrently.
const PROCESSES: u64 = 4;

/// The total operations per second.
const RATE: u64 = 100_000;

/// More than any machine achieves.
const NO_LIMIT: u64 = 100_000_000;

/// How long they run without a limit.
const SECONDS_WITHOUT_LIMIT: u64 = 5;

const TIMES: u32 = 200_000;

const THREADS: [u32; 3] = [1, 8, 64];
const TARGETS: [u32; 3] = [1, 16, 64];

/// The number of CPUs of a large node.
const CPUS: u64 = 256;

pub fn run(options: &Options, stage: &Stage) -> anyhow::Result<Vec<Table>> {
    let memory = options.in_memory("scale", 256)?;
    let many = |name: &str, count: u64| -> anyhow::Result<Vec<Worker>> {
        (0..count).map(|n| Worker::start(name, &memory.path().join(format!("{n}")), None)).collect()
    };
    let counts = counts(options, stage, &mut many("etcd", PROCESSES)?)?;
    let threads = threads(options, stage, &mut many("etcd", 1)?[0])?;
    let targets = targets(options, stage, &mut many("etcd", u64::from(TARGETS[TARGETS.len() - 1]))?)?;
    Ok(vec![counts, threads, targets, memory_by_targets(stage)?])
}

/// Runs operations at a rate, and compares the probe's counts with the operations made.
fn counts(options: &Options, stage: &Stage, workers: &mut [Worker]) -> anyhow::Result<Table> {
    let title = format!("writes and syncs in turn, by {PROCESSES} traced processes at once");
    let columns = [
        "wanted a second",
        "s",
        "made",
        "made a second",
        "counted",
        "counted − made",
        "missed",
        "skipped by the kernel",
    ];
    let mut table = Table::new(title, columns);
    for (rate, seconds) in [(RATE, options.seconds), (NO_LIMIT, SECONDS_WITHOUT_LIMIT)] {
        let Tracing::Probe(kernel) = &Tracer::Probe.start(stage, 0)? else { bail!("the probe is the probe") };
        for worker in &mut *workers {
            worker.start_rate(rate / PROCESSES, seconds)?;
        }
        let (mut made, mut counted, mut took) = (0, 0, 0.0_f64);
        for worker in &mut *workers {
            let one: Made = worker.made()?;
            let seen = counted_of(kernel, worker.pid())?;
            ensure!(rate == NO_LIMIT || one.writes > 0, "a worker made nothing");
            made += one.writes + one.syncs;
            counted += seen;
            took = took.max(one.took.as_secs_f64());
        }
        let missed: u64 = kernel.misses().iter().map(|(_, count)| count).sum();
        table.row([
            if rate == NO_LIMIT { "as many as go".into() } else { rate.into() },
            took.into(),
            made.into(),
            (made as f64 / took).into(),
            counted.into(),
            (counted as f64 - made as f64).into(),
            missed.into(),
            kernel.skipped_runs().into(),
        ]);
    }
    Ok(table)
}

/// Returns the writes and syncs of segments that the probe has counted.
fn counted_of(kernel: &Kernel, pid: u32) -> anyhow::Result<u64> {
    let process = kernel.processes().into_iter().find(|process| process.pid == pid);
    let target = process.with_context(|| format!("the probe has not found process {pid}"))?.target;
    let count = |op| series(Role::Wal, op).map_or(0, |series| kernel.latencies(target, series).count());
    Ok(count(Op::Write) + count(Op::Fdatasync))
}

/// Returns the cost of a traced call while others make one.
fn threads(options: &Options, stage: &Stage, worker: &mut Worker) -> anyhow::Result<Table> {
    let title =
        "ns of CPU added to a traced pwrite64 of one byte to a segment, by threads that make them at once";
    let mut table = Table::new(title, ["threads", "without", "added"]);
    for threads in THREADS {
        let (mut without, mut added) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            options.go_on()?;
            without.push(worker.cost_with_threads(threads, options.times(TIMES))?);
            let tracing = Tracer::Probe.start(stage, worker.pid())?;
            let with = worker.cost_with_threads(threads, options.times(TIMES))?;
            drop(tracing);
            added.push(with - without[without.len() - 1]);
        }
        table.row([u64::from(threads).into(), Spread::of(&without).into(), Spread::of(&added).into()]);
    }
    Ok(table)
}

/// Returns the cost of a traced call with other targets.
fn targets(options: &Options, stage: &Stage, workers: &mut [Worker]) -> anyhow::Result<Table> {
    let title = "ns added to a traced call, by targets that the probe knows";
    let calls = [Call::Write, Call::Pwrite64, Call::Fdatasync];
    let mut table = Table::new(title, ["targets"].into_iter().chain(calls.map(Call::as_str)));
    for targets in TARGETS {
        let stage = Stage { max_targets: targets, ..stage.clone() };
        let mut added = [const { Vec::new() }; 3];
        for _ in 0..options.rounds {
            options.go_on()?;
            let mut time = |calls: [Call; 3]| -> anyhow::Result<Vec<f64>> {
                calls.iter().map(|call| workers[0].time(*call, options.times(TIMES / 2))).collect()
            };
            let without = time(calls)?;
            let Tracing::Probe(kernel) = &Tracer::Probe.start(&stage, 0)? else {
                bail!("the probe is the probe")
            };
            // Each process becomes known by its first call.
            for worker in &mut workers[..targets as usize] {
                worker.time(Call::Write, 16)?;
            }
            ensure!(kernel.processes().len() >= targets as usize, "not all of {targets} processes are known");
            let with: Vec<f64> = calls
                .iter()
                .map(|call| workers[0].time(*call, options.times(TIMES / 2)))
                .collect::<Result<_, _>>()?;
            for ((added, without), with) in added.iter_mut().zip(without).zip(with) {
                added.push(with - without);
            }
        }
        table.row(
            [Cell::from(u64::from(targets))].into_iter().chain(added.map(|all| Spread::of(&all).into())),
        );
    }
    Ok(table)
}

/// Returns the memory of the maps here and on a large node.
fn memory_by_targets(stage: &Stage) -> anyhow::Result<Table> {
    let title = "memory in the kernel, by targets at most (all that is always on)";
    let columns =
        ["targets", "maps", "with a copy per CPU", "maps MiB", "maps MiB on 256 CPUs", "programs KiB"];
    let mut table = Table::new(title, columns);
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error).context("cannot count the CPUs")? as u64;
    for targets in TARGETS {
        let _kernel = start(stage.hook.into(), &always_on(targets)).context("cannot start the probe")?;
        let memory = KernelMemory::of(std::process::id())?;
        let on_large = memory.map_bytes() + memory.bytes_per_cpu() * (CPUS - cpus);
        let mib = |bytes: u64| Cell::from(bytes as f64 / f64::from(1 << 20));
        table.row([
            u64::from(targets).into(),
            (memory.maps.len() as u64).into(),
            (memory.per_cpu() as u64).into(),
            mib(memory.map_bytes()),
            mib(on_large),
            (memory.program_bytes as f64 / 1024.0).into(),
        ]);
    }
    Ok(table)
}
