//! Measures what the probe costs, beside those who do the like: `cargo xtask bench`.

mod tracers;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use probe_tests::scratch::{Scratch, Tmpfs};
use probe_user::kernel::HookChoice;

use self::tracers::Tracer;
use self::worker::{Call, Worker};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Nanoseconds that are added to one system call
    Calls {
        /// How often everything is measured
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Calls in a row
        #[arg(long, default_value_t = 100_000)]
        times: u32,
    },
    /// Makes system calls when told to
    #[command(hide = true)]
    Worker { name: String, directory: PathBuf },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Calls { rounds, times } => calls(rounds, times),
        Task::Worker { name, directory } => worker::serve(&name, &directory),
    }
}

fn calls(rounds: u32, times: u32) -> anyhow::Result<()> {
    let scratch = Scratch::on_disk("bench")?;
    let memory = Tmpfs::mount(&scratch.path().join("memory"), 64)?;
    let mut workers = ["etcd", "other"]
        .map(|name| (name, Worker::start(name, &memory.path().join(name)).expect("a worker starts")));
    let pid = workers[0].1.pid();
    let mut seen: BTreeMap<(&str, Call, Tracer), Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for tracer in Tracer::ALL.into_iter().filter(|tracer| tracer.is_there()) {
            let tracing = tracer.start(pid, HookChoice::Auto)?;
            for (name, worker) in &mut workers {
                for call in Call::ALL {
                    seen.entry((name, call, tracer)).or_default().push(worker.time(call, times)?);
                }
            }
            drop(tracing);
        }
    }
    let median = |key: &(&str, Call, Tracer)| {
        let mut all = seen[key].clone();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    for (name, call, tracer) in seen.keys() {
        let base = median(&(name, *call, Tracer::None));
        let all = &seen[&(*name, *call, *tracer)];
        let (least, most) = all.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        println!(
            "{name:<6} {:<16} {:<9} {:>8.0} ns  added {:>8.0}  ({least:.0} to {most:.0})",
            call.as_str(),
            tracer.as_str(),
            median(&(name, *call, *tracer)),
            median(&(name, *call, *tracer)) - base,
        );
    }
    Ok(())
}
