//! The kernel's statistics of its programs: how long each runs, for etcd and for all other processes.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use aya::sys::{Stats, enable_stats};
use probe_user::kernel::Kernel;

use crate::Options;
use crate::table::Table;
use crate::tracers::{Stage, Tracer, Tracing};
use crate::worker::{Call, Worker};

const TIMES: u32 = 50_000;

/// The calls that have a program of their own.
const TRACED: [Call; 3] = [Call::Write, Call::Pwrite64, Call::Fdatasync];

/// The runs of each program so far, and their nanoseconds.
type Runs = BTreeMap<String, (u64, u64)>;

pub fn run(options: &Options, stage: &Stage) -> anyhow::Result<Vec<Table>> {
    let (memory, disk) = (options.in_memory("programs", 64)?, options.on_disk("programs")?);
    let start = |name| Worker::start(name, &memory.path().join(name), options.cpu);
    let (mut etcd, mut other) = (start("etcd")?, start("other")?);
    let mut reader = Worker::start("other", disk.path(), options.cpu)?;
    let times = options.times(TIMES);
    let mut reported: BTreeMap<String, [Option<f64>; 2]> = BTreeMap::new();
    // The exact variant, which traces switches, also measures the other programs, but not as they are without
    // it.
    for tracer in [Tracer::Exact, Tracer::Probe] {
        let stage = Stage { device: Some(disk.device()?), ..stage.clone() };
        let Tracing::Probe(kernel) = &tracer.start(&stage, etcd.pid())? else {
            bail!("the probe is the probe")
        };
        // A thread becomes known by its first call.
        call(&mut etcd, &TRACED, 100)?;
        // Like `kernel.bpf_stats_enabled`, but only until this file is closed, even by a crash.
        let _counting = enable_stats(Stats::RunTime).context("cannot have the kernel count runs")?;
        let begin = read(kernel);
        call(&mut etcd, &TRACED, times)?;
        let traced = read(kernel);
        call(&mut other, &TRACED, times)?;
        call(&mut other, &[Call::Switch], times / 4)?;
        call(&mut reader, &[Call::DirectRead], times / 4)?;
        let bystander = read(kernel);
        for program in begin.keys() {
            let mean = |from: &Runs, to: &Runs| {
                let (runs, ns) = (to[program].0 - from[program].0, to[program].1 - from[program].1);
                // Other processes of the host call occasionally.
                (runs >= u64::from(times / 8)).then(|| ns as f64 / runs as f64)
            };
            reported.insert(program.clone(), [mean(&begin, &traced), mean(&traced, &bystander)]);
        }
    }
    let title =
        "ns of a run, by the kernel's own count (run_time_ns / run_cnt, which takes some 20 ns a run itself)";
    let mut table = Table::new(title, ["program", "for etcd", "for another"]);
    for (program, [for_etcd, for_other]) in
        reported.iter().filter(|(_, means)| means.iter().any(Option::is_some))
    {
        table.row([program.as_str().into(), (*for_etcd).into(), (*for_other).into()]);
    }
    Ok(vec![table])
}

fn call(worker: &mut Worker, calls: &[Call], times: u32) -> anyhow::Result<()> {
    calls.iter().try_for_each(|call| worker.time(*call, times).map(drop)).context("cannot call")
}

fn read(kernel: &Kernel) -> Runs {
    let runs = kernel.runs().into_iter().flatten();
    runs.map(|runs| (runs.program, (runs.count, runs.total_ns))).collect()
}
