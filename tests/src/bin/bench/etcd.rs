//! The effect of tracing on a real etcd: at full load, and at a fixed rate that a stall does not slow down.

use std::time::{Duration, Instant};

use anyhow::Context;
use probe_tests::etcd::{self as installed, Etcd, Member};
use probe_tests::machine::scratch::Scratch;
use probe_user::kernel::{Toggle, start};

use crate::Options;
use crate::paired::{Changes, Pair, Phase, Switched, cpu_per_put_ns, latency_ns, pair, throughput};
use crate::puts::{Generator, Pace};
use crate::table::{Cell, Table};
use crate::tracers::{Stage, Tracer, always_on};

/// As many puts as possible.
const FULL: Pace = Pace::Full { connections: 8 };

/// The rate of a quiet cluster.
const FIXED: Pace = Pace::PerSecond { puts: 500, connections: 32 };

/// The location of etcd's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    /// All overhead of tracing is visible there, because nothing waits for a disk.
    InMemory,
    OnDisk,
}

/// The tracer, load and location of each run.
const RUNS: [(Tracer, Pace, Files); 10] = [
    (Tracer::Probe, FULL, Files::InMemory),
    (Tracer::Empty, FULL, Files::InMemory),
    (Tracer::Exporter, FULL, Files::InMemory),
    (Tracer::Bpftrace, FULL, Files::InMemory),
    (Tracer::Syscount, FULL, Files::InMemory),
    (Tracer::PerfTrace, FULL, Files::InMemory),
    (Tracer::Strace, FULL, Files::InMemory),
    (Tracer::Probe, FIXED, Files::InMemory),
    (Tracer::Bpftrace, FIXED, Files::InMemory),
    (Tracer::Probe, FULL, Files::OnDisk),
];

/// The length of a phase with or without the probe; and with a peer, whose start takes longer.
const PHASE: Duration = Duration::from_millis(200);
const PHASE_OF_PEER: Duration = Duration::from_secs(3);

/// With fewer pairs their scatter is unknown.
const FEWEST_PAIRS: usize = 40;

/// The width at which an interval is narrow enough, in percent from end to end.
const NARROW: f64 = 1.0;

/// The number of pairs between two checks of this width.
const LOOK_EVERY: usize = 20;

/// Room for all puts at full load within the maximum time.
const MIB: u32 = 4096;

const COLUMNS: [&str; 13] = [
    "tracer",
    "files",
    "load",
    "pairs of phases",
    "puts/s without",
    "puts/s, change %",
    "CPU of a put without, µs",
    "CPU of a put, change %",
    "p50 without, µs",
    "p50, change %",
    "p99 without, µs",
    "p99 with, µs",
    "p99, change %",
];

pub fn run(options: &Options, stage: &Stage) -> anyhow::Result<Vec<Table>> {
    let title = "etcd 3.5.16, values of 256 bytes: changes and their 95 % intervals";
    let mut table = Table::new(title, COLUMNS);
    for (tracer, pace, files) in RUNS {
        if let Some(why) = tracer.missing(stage) {
            eprintln!("bench: without {}: {why}", tracer.as_str());
            continue;
        }
        // Each on an etcd of its own with the same history.
        let memory = options.in_memory("etcd", MIB)?;
        let scratch = Scratch::new(&options.directory, "etcd")?;
        let place = if files == Files::InMemory { memory.path() } else { scratch.path() };
        let etcd = Member::new(&installed::find("3.5.16")?, "bench", place).start()?;
        let load = Generator::start(&etcd.endpoint(), pace);
        let pairs = under(&load, &etcd, tracer, options, stage)
            .with_context(|| format!("cannot measure {} on etcd", tracer.as_str()))?;
        load.stop().context("cannot put load on etcd")?;
        table.row(row(tracer, pace, files, &pairs));
    }
    Ok(vec![table])
}

/// Switches the tracer on and off under a load until the intervals are narrow enough.
fn under(
    load: &Generator,
    etcd: &Etcd,
    tracer: Tracer,
    options: &Options,
    stage: &Stage,
) -> anyhow::Result<Vec<Pair>> {
    // Warm-up: connections open, caches fill.
    std::thread::sleep(Duration::from_secs(2));
    let (mut switched, lasting) = if tracer == Tracer::Probe {
        let kernel =
            start(stage.hook.into(), &always_on(stage.max_targets)).context("cannot start the probe")?;
        let toggle = Toggle::new(kernel).context("cannot detach the probe")?;
        (Switched::Toggle(Box::new(toggle)), PHASE)
    } else {
        // These small programs attach as quickly as the probe.
        let is_quick = matches!(tracer, Tracer::Empty | Tracer::Exporter);
        let lasting = if is_quick { PHASE } else { PHASE_OF_PEER };
        (Switched::Tracer { tracer, stage: stage.clone(), tracing: None }, lasting)
    };
    let began = Instant::now();
    let mut pairs = Vec::new();
    for n in 0_u32.. {
        options.go_on()?;
        pairs.push(pair(load, etcd.pid(), lasting, n % 2 == 1, &mut switched)?);
        let look = pairs.len() >= FEWEST_PAIRS && pairs.len().is_multiple_of(LOOK_EVERY);
        if began.elapsed().as_secs() >= options.limit || look && Changes::of(&pairs).are_within(NARROW) {
            break;
        }
    }
    Ok(pairs)
}

fn row(tracer: Tracer, pace: Pace, files: Files, pairs: &[Pair]) -> Vec<Cell> {
    let changes = Changes::of(pairs);
    let without: Vec<&Phase> = pairs.iter().map(|pair| &pair.without).collect();
    let with: Vec<&Phase> = pairs.iter().map(|pair| &pair.with).collect();
    let us = |ns: Option<f64>| ns.map(|ns| ns / 1e3);
    vec![
        tracer.as_str().into(),
        if files == Files::InMemory { "tmpfs" } else { "disk" }.into(),
        if pace == FULL { "full load, 8 connections" } else { "500 puts/s" }.into(),
        (pairs.len() as u64).into(),
        throughput(&without).into(),
        changes.throughput.into(),
        us(cpu_per_put_ns(&without)).into(),
        changes.cpu_per_put.into(),
        us(latency_ns(&without, 0.5)).into(),
        changes.p50.into(),
        us(latency_ns(&without, 0.99)).into(),
        us(latency_ns(&with, 0.99)).into(),
        changes.p99.into(),
    ]
}
