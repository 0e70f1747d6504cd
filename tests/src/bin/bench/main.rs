//! Measures the cost of the probe, compared with similar tools: `cargo xtask bench`.
//!
//! Everything is measured alternately without and with a tracer, round after round on one machine; the result
//! is the median and the quartiles of the differences, or an estimate and its 95 % interval (±).

mod figures;
mod table;
mod system;
mod memory;
mod place;
mod puts;
mod paired;
mod worker;
mod tracers;
mod calls;
mod programs;
mod daemon;
mod etcd;
mod accuracy;
mod scale;
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::requirements::{self, Need};
use probe_user::kernel::{HookChoice, start};
use serde_json::{Map, Value, json};

use self::place::{Disk, Memory};
use self::tracers::Stage;

/// The prefix of the line that `--json -` prints.
const JSON: &str = "bench: json ";

/// Measure the cost of the probe, compared with other tracers.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench")]
pub struct Options {
    /// What to measure; everything if nothing is named
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// How often each comparison is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Also write everything to this file; `-` prints it as one line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure `calls` and `programs` in a virtual machine that boots this kernel, such as 6.12, instead of
    /// here
    #[arg(long, value_name = "KERNEL")]
    vm: Option<String>,
    /// Boot it with this preemption model, such as `full`, instead of its own
    #[arg(long, value_name = "MODEL", requires = "vm")]
    preempt: Option<String>,
    /// A directory in memory, instead of a file system mounted for it
    #[arg(long)]
    memory: Option<PathBuf>,
    /// A directory on a disk that is read, instead of a loop device
    #[arg(long)]
    disk: Option<PathBuf>,
    /// The hook of the probe's programs
    #[arg(long, value_enum, default_value_t = HookChoice::Auto)]
    hook: HookChoice,
    /// The CPU on which calls are timed; by default any, if there is only one
    #[arg(long)]
    cpu: Option<usize>,
    /// Divide the number of calls by this, on a slow machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    fewer: u32,
    /// How long `scale` runs operations at a fixed rate
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The maximum seconds of `etcd` for each load until its intervals are narrow
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// The directory for files that must be on a disk, or need not be
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// Set by Ctrl-C: mounts and processes are then undone.
    #[arg(skip)]
    stop: Cancel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Nanoseconds added to one call, to a switch and to a block request
    Calls,
    /// Nanoseconds per run of a program, as counted by the kernel
    Programs,
    /// Start, memory, CPU time and scrapes of the daemon
    Daemon,
    /// Throughput, latency and CPU time of a real etcd
    Etcd,
    /// Error of the quantiles computed from histograms
    Accuracy,
    /// Operations per second, threads, targets and memory
    Scale,
}

impl Options {
    /// Returns the number of calls, given the number for a fast machine.
    fn times(&self, of_a_fast_machine: u32) -> u32 {
        of_a_fast_machine / self.fewer
    }

    /// Returns an error if the run was interrupted.
    fn go_on(&self) -> anyhow::Result<()> {
        ensure!(!self.stop.is_cancelled(), "interrupted");
        Ok(())
    }

    /// Returns a directory in memory with this much room.
    fn in_memory(&self, name: &str, mib: u32) -> anyhow::Result<Memory> {
        match &self.memory {
            Some(directory) => Memory::within(directory, name),
            None => Memory::mount(&self.directory, name, mib),
        }
    }

    /// Returns a directory on a disk.
    fn on_disk(&self, name: &str) -> anyhow::Result<Disk> {
        match &self.disk {
            Some(directory) => Disk::within(directory, name),
            None => Disk::mount(&self.directory, name),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let Some((word, rest)) = arguments.split_first()
        && word == worker::WORD
    {
        return worker::serve(rest);
    }
    let options = Options { stop: Cancel::on_signals()?, ..Options::parse() };
    if let Some(path) = options.json.as_deref().filter(|path| *path != Path::new("-")) {
        // An unwritable file is reported now, not after twenty minutes of measuring. Until then the content
        // of an existing file is kept.
        let file = fs::OpenOptions::new().append(true).create(true).open(path);
        file.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let whole = match &options.vm {
        Some(kernel) => machine::run(&options, kernel)?,
        None => here(options.clone())?,
    };
    match options.json.as_deref() {
        None => {}
        Some(path) if path == Path::new("-") => println!("{JSON}{whole}"),
        Some(path) => {
            let text = serde_json::to_string_pretty(&whole)?;
            fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// Measures on this machine.
fn here(mut options: Options) -> anyhow::Result<Value> {
    requirements::require(&[Need::Root, Need::Bpf]);
    let _tracefs = system::tracefs()?;
    // The last CPU: the first handles most of the interrupts.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    options.cpu = options.cpu.or((cpus > 1).then(|| cpus - 1));
    let hook = start(options.hook, &tracers::always_on(1)).context("cannot start the probe")?.hook();
    let stage = Stage::new(hook);
    if options.sections.is_empty() {
        options.sections = Section::value_variants().to_vec();
    }
    let mut sections = Map::new();
    for section in &options.sections {
        let name = section.to_possible_value().context("every section has a name")?.get_name().to_owned();
        let started = Instant::now();
        let tables = match section {
            Section::Calls => calls::run(&options, &stage),
            Section::Programs => programs::run(&options, &stage),
            Section::Daemon => daemon::run(&options),
            Section::Etcd => etcd::run(&options, &stage),
            Section::Accuracy => accuracy::run(&options, hook),
            Section::Scale => scale::run(&options, &stage),
        };
        let tables = tables.with_context(|| format!("cannot measure {name}"))?;
        println!("{name} ({:.0} s)\n", started.elapsed().as_secs_f64());
        for table in &tables {
            println!("{}", table.text());
        }
        sections.insert(name, tables.iter().map(table::Table::json).collect());
    }
    Ok(json!({
        "machine": system::describe(),
        "hook": stage.hook.as_str(),
        "rounds": options.rounds,
        "sections": sections,
    }))
}
