//! What the kernel itself tells of its programs: how long each runs, for etcd and for everybody else.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use probe_tests::scratch::{Scratch, Tmpfs};
use probe_user::kernel::Kernel;

use crate::Options;
use crate::system::ProgramStatistics;
use crate::table::Table;
use crate::tracers::{Stage, Tracer, Tracing};
use crate::worker::{Call, Worker};

const TIMES: u32 = 50_000;

/// Runs of each program so far, and their nanoseconds.
type Runs = BTreeMap<String, (u64, u64)>;

pub fn run(options: &Options, stage: &Stage) -> anyhow::Result<Vec<Table>> {
    let scratch = Scratch::new(&options.directory, "programs")?;
    let memory = Tmpfs::mount(&scratch.path().join("memory"), 64)?;
    let start = |name| Worker::start(name, &memory.path().join(name), options.cpu);
    let (mut etcd, mut other) = (start("etcd")?, start("other")?);
    let Tracing::Probe(kernel) = &Tracer::Probe.start(stage, etcd.pid())? else {
        bail!("the probe is the probe")
    };
    // A thread is made known by its first call.
    call_all(&mut etcd, 100)?;
    let _statistics = ProgramStatistics::enable()?;
    let begin = read(kernel);
    call_all(&mut etcd, options.times(TIMES))?;
    let traced = read(kernel);
    call_all(&mut other, options.times(TIMES))?;
    let bystander = read(kernel);
    let title =
        "ns of a run, by the kernel's own count (run_time_ns / run_cnt, which costs some 20 ns a run itself)";
    let mut table = Table::new(title, ["program", "for etcd", "for another"]);
    for program in begin.keys() {
        let mean = |from: &Runs, to: &Runs| {
            let (runs, ns) = (to[program].0 - from[program].0, to[program].1 - from[program].1);
            (runs >= u64::from(options.times(TIMES)) / 2).then(|| ns as f64 / runs as f64)
        };
        let (for_etcd, for_other) = (mean(&begin, &traced), mean(&traced, &bystander));
        if for_etcd.is_some() || for_other.is_some() {
            table.row([program.as_str().into(), for_etcd.into(), for_other.into()]);
        }
    }
    Ok(vec![table])
}

fn call_all(worker: &mut Worker, times: u32) -> anyhow::Result<()> {
    for call in [Call::Write, Call::Pwrite64, Call::Fdatasync] {
        worker.time(call, times).context("cannot call")?;
    }
    Ok(())
}

fn read(kernel: &Kernel) -> Runs {
    let runs = kernel.runs().into_iter().flatten();
    runs.map(|runs| (runs.program, (runs.count, runs.total_ns))).collect()
}
