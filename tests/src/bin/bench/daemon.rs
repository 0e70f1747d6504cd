//! The daemon with real etcd processes: its start, memory, CPU time, and the cost of a scrape.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::machine::process;
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::{self, Invocation, Probe};

use crate::Options;
use crate::figures::Spread;
use crate::memory::KernelMemory;
use crate::puts::{Generator, Pace};
use crate::system::cpu_time;
use crate::table::{Cell, Table};

/// The number of etcd members, and whether the first has load.
const SETTINGS: [(usize, bool); 4] = [(1, false), (1, true), (8, false), (64, false)];

/// The kind of load.
const LOAD: Pace = Pace::PerSecond { puts: 500, connections: 32 };

/// Starts of the daemon, each followed by its end.
const STARTS: u32 = 5;

/// The duration of the measurement.
const AT_REST: Duration = Duration::from_secs(10);
const SCRAPED: Duration = Duration::from_secs(20);

/// The clock for CPU time.
const PER: Duration = Duration::from_secs(30);

const SCRAPED_EVERY: Duration = Duration::from_secs(1);

/// Etcd members that start at the same time.
const AT_ONCE: usize = 8;

/// The time limit for the daemon to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The polling interval for its start.
const LOOK_EVERY: Duration = Duration::from_millis(1);

const COLUMNS: [&str; 13] = [
    "members",
    "self-test passed after ms",
    "ready after ms",
    "RSS MiB",
    "RSS MiB at its peak",
    "CPU s in 30 s at rest",
    "CPU s in 30 s, a scrape a second",
    "scrape ms",
    "slowest scrape ms",
    "scrape bytes",
    "--max-members",
    "maps MiB",
    "programs KiB",
];

pub fn run(options: &Options) -> anyhow::Result<Vec<Table>> {
    let binary = probe::binary()?;
    let mut whole = Table::new("the binary", ["file", "bytes"]);
    let bytes = fs::metadata(&binary).context("cannot poll the probe")?.len();
    whole.row(["etcd-disk-probe".into(), bytes.into()]);
    let mut table = Table::new("the daemon (start: median and quartiles of its starts)", COLUMNS);
    for (members, loaded) in SETTINGS {
        options.go_on()?;
        let scratch = Scratch::new(&options.directory, "daemon")?;
        let started = start_all(members, scratch.path())?;
        let load = loaded.then(|| Generator::start(&started[0].endpoint(), LOAD));
        table.row(probe_next_to(members, loaded, &binary, scratch.path())?);
        if let Some(load) = load {
            load.stop().context("cannot put load on etcd")?;
        }
        stop_all(started);
    }
    Ok(vec![whole, table])
}

/// Measures the daemon with what is running.
fn probe_next_to(members: usize, loaded: bool, binary: &Path, directory: &Path) -> anyhow::Result<Vec<Cell>> {
    let max_members = members.max(16).to_string();
    let invocation = Invocation::new(binary, directory).arguments(&["--max-members", &max_members]);
    let mut starts = Vec::new();
    let mut probe = None;
    for _ in 0..STARTS {
        // The previous one must have ended.
        drop(probe.take());
        let started = start(&invocation)?;
        starts.push(started.1);
        probe = Some(started.0);
    }
    let probe = probe.context("it was started")?;
    // The cost of the start is not part of the idle cost.
    thread::sleep(Duration::from_secs(2));
    let pid = probe.pid();
    let at_rest = cpu_seconds(pid, AT_REST, &mut || {
        thread::sleep(AT_REST);
        Ok(())
    })?;
    let resident = process::resident_bytes(pid)?;
    let (mut took_ms, mut bytes) = (Vec::new(), 0);
    let scraped = cpu_seconds(pid, SCRAPED, &mut || {
        let began = Instant::now();
        for n in 0.. {
            let due = began + SCRAPED_EVERY * n;
            if due >= began + SCRAPED {
                return Ok(());
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            bytes = probe.get("/metrics")?.text()?.len() as u64;
            took_ms.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        Ok(())
    })?;
    let memory = KernelMemory::of(pid)?;
    let column = |part: fn(&Start) -> Duration| {
        let all: Vec<_> = starts.iter().map(|start| part(start).as_secs_f64() * 1e3).collect();
        Cell::from(Spread::of(&all))
    };
    let mib = |bytes: u64| Cell::from(bytes as f64 / f64::from(1 << 20));
    let load = if loaded { ", 500 puts/s" } else { "" };
    Ok(vec![
        format!("{members}{load}").into(),
        column(|start| start.self_test),
        column(|start| start.ready),
        mib(resident),
        mib(process::peak_resident_bytes(pid)?),
        at_rest.into(),
        scraped.into(),
        Spread::of(&took_ms).into(),
        took_ms.iter().copied().reduce(f64::max).into(),
        bytes.into(),
        max_members.into(),
        mib(memory.map_bytes()),
        (memory.program_bytes as f64 / 1024.0).into(),
    ])
}

/// Returns the CPU time that a process uses during another action, scaled to 30 s.
fn cpu_seconds(
    pid: u32,
    lasting: Duration,
    run: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let before = cpu_time(pid)?;
    run()?;
    let took = cpu_time(pid)?.saturating_sub(before);
    Ok(took.as_secs_f64() * PER.as_secs_f64() / lasting.as_secs_f64())
}

/// The time from the daemon's start.
struct Start {
    self_test: Duration,
    ready: Duration,
}

fn start(invocation: &Invocation) -> anyhow::Result<(Probe, Start)> {
    let began = Instant::now();
    let probe = invocation.launch()?;
    let mut self_test = None;
    while began.elapsed() < START_LIMIT {
        if self_test.is_none() && probe.log()?.contains("self-test passed") {
            self_test = Some(began.elapsed());
        }
        if let Some(self_test) = self_test
            && probe.is_ready()
        {
            return Ok((probe, Start { self_test, ready: began.elapsed() }));
        }
        thread::sleep(LOOK_EVERY);
    }
    bail!("the probe is not ready after {START_LIMIT:?}: {}", probe.log()?)
}

/// Starts this many etcd members, each a cluster of its own.
fn start_all(members: usize, directory: &Path) -> anyhow::Result<Vec<Etcd>> {
    let binary = etcd::find("3.5.16")?;
    let numbers: Vec<_> = (0..members).collect();
    let mut running = Vec::new();
    for some in numbers.chunks(AT_ONCE) {
        let started: Vec<_> = thread::scope(|scope| {
            let start = |n: &usize| {
                let member = Member::new(&binary, &format!("member-{n}"), directory);
                scope.spawn(move || member.start())
            };
            let starting: Vec<_> = some.iter().map(start).collect();
            starting.into_iter().map(|one| one.join().expect("a start does not panic")).collect()
        });
        for one in started {
            running.push(one?);
        }
    }
    Ok(running)
}

fn stop_all(members: Vec<Etcd>) {
    thread::scope(|scope| {
        for mut etcd in members {
            // Its drop prints an error.
            scope.spawn(move || etcd.stop());
        }
    });
}
