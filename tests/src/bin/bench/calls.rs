//! Nanoseconds that tracing adds to one call: of a traced process, and of one that is not traced.

use std::collections::BTreeMap;

use anyhow::Context;

use crate::Options;
use crate::figures::{Spread, median};
use crate::table::{Cell, Table};
use crate::tracers::{Stage, Tracer};
use crate::worker::{Call, Worker};

/// Consecutive calls of a process that is not slowed down.
const TIMES: u32 = 100_000;

/// A switch or a request takes longer than a call.
const FEWER_TIMES: u32 = 20_000;

/// The overhead of a slow tracer exceeds any noise.
const ROUNDS_OF_SLOW: u32 = 2;

/// The tracers to measure.
const TRACERS: [Tracer; 9] = [
    Tracer::Probe,
    Tracer::WithoutBlock,
    Tracer::Empty,
    Tracer::EmptyTwice,
    Tracer::Exporter,
    Tracer::Bpftrace,
    Tracer::Syscount,
    Tracer::PerfTrace,
    Tracer::Strace,
];

/// The tracers that affect switches and requests.
const AROUND: [Tracer; 3] = [Tracer::WithoutBlock, Tracer::Probe, Tracer::Exact];

pub fn run(options: &Options, stage: &Stage) -> anyhow::Result<Vec<Table>> {
    let memory = options.in_memory("calls", 64)?;
    let start = |name| Ok((name, Worker::start(name, &memory.path().join(name), options.cpu)?));
    let callers = ["etcd", "other"].into_iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    let columns = (0..callers.len()).flat_map(|caller| Call::PLAIN.map(|call| (caller, call))).collect();
    let mut plain = Comparison { callers, columns, times: options.times(TIMES), measured: BTreeMap::new() };
    let there = plain.interleave(options, stage, &TRACERS)?;
    let mut tables = vec![
        plain.table("ns added to one call, on tmpfs (median and quartiles of paired rounds)", &there),
        plain.ratios(),
    ];
    drop(plain);
    tables.push(around(options, stage)?);
    Ok(tables)
}

/// Returns the overhead of a context switch and of a block request.
fn around(options: &Options, stage: &Stage) -> anyhow::Result<Table> {
    let disk = options.on_disk("around")?;
    let stage = Stage { device: Some(disk.device()?), ..stage.clone() };
    let columns = vec![(0, Call::Switch), (0, Call::DirectRead)];
    let callers = vec![("other", Worker::start("other", disk.path(), options.cpu)?)];
    let times = options.times(FEWER_TIMES);
    let mut comparison = Comparison { callers, columns, times, measured: BTreeMap::new() };
    let there = comparison.interleave(options, &stage, &AROUND)?;
    let title = "ns added to a switch between two threads (two calls of futex are part of it) and to a direct read of 4 KiB from a disk (a \
                 loop device on the host)";
    Ok(comparison.table(title, &there))
}

/// Nanoseconds per call without a tracer, and the overhead of it, of every round.
#[derive(Default)]
struct Added {
    without: Vec<f64>,
    added: Vec<f64>,
}

/// Tracers, compared with each other.
struct Comparison {
    /// The first is the traced one.
    callers: Vec<(&'static str, Worker)>,
    /// The calls, each with the index of its caller.
    columns: Vec<(usize, Call)>,
    times: u32,
    measured: BTreeMap<(Tracer, usize, Call), Added>,
}

impl Comparison {
    /// Measures without and with each tracer in turn, round after round; the overhead of a tracer is relative
    /// to the measurement just before. Returns the tracers that are available.
    fn interleave(
        &mut self,
        options: &Options,
        stage: &Stage,
        tracers: &[Tracer],
    ) -> anyhow::Result<Vec<Tracer>> {
        let mut there = Vec::new();
        for tracer in tracers {
            match tracer.missing(stage) {
                Some(why) => eprintln!("bench: without {}: {why}", tracer.as_str()),
                None => there.push(*tracer),
            }
        }
        for round in 0..options.rounds {
            for tracer in there.iter().filter(|tracer| tracer.slowness() == 1 || round < ROUNDS_OF_SLOW) {
                options.go_on()?;
                self.pair(*tracer, stage)
                    .with_context(|| format!("cannot measure {} in round {round}", tracer.as_str()))?;
            }
        }
        Ok(there)
    }

    fn pair(&mut self, tracer: Tracer, stage: &Stage) -> anyhow::Result<()> {
        let without = self.measure(self.times)?;
        let tracing = tracer.start(stage, self.callers[0].1.pid())?;
        let with = self.measure(self.times / tracer.slowness())?;
        drop(tracing);
        for ((column, without), with) in self.columns.iter().zip(without).zip(with) {
            let added = self.measured.entry((tracer, column.0, column.1)).or_default();
            added.without.push(without);
            added.added.push(with - without);
        }
        Ok(())
    }

    /// Returns nanoseconds per call, by column.
    fn measure(&mut self, times: u32) -> anyhow::Result<Vec<f64>> {
        self.columns.iter().map(|(caller, call)| self.callers[*caller].1.time(*call, times)).collect()
    }

    fn empty_table(&self, title: &str, first: &str) -> Table {
        let names = self
            .columns
            .iter()
            .map(|(caller, call)| format!("{}: {}", self.callers[*caller].0, call.as_str()));
        Table::new(title, [first.to_owned()].into_iter().chain(names))
    }

    fn table(&self, title: &str, tracers: &[Tracer]) -> Table {
        let mut table = self.empty_table(title, "tracer");
        let baseline = self.columns.iter().map(|(caller, call)| {
            let all = tracers.iter().filter_map(|tracer| self.measured.get(&(*tracer, *caller, *call)));
            Spread::of(&all.flat_map(|added| added.without.clone()).collect::<Vec<_>>()).into()
        });
        table.row([Cell::from("none (a call takes)")].into_iter().chain(baseline));
        for tracer in tracers {
            let added = self.columns.iter().map(|(caller, call)| {
                self.measured
                    .get(&(*tracer, *caller, *call))
                    .and_then(|added| Spread::of(&added.added))
                    .into()
            });
            table.row([Cell::from(tracer.as_str())].into_iter().chain(added));
        }
        table
    }

    /// Returns the probe's overhead divided by that of the others.
    fn ratios(&self) -> Table {
        let mut table = self
            .empty_table("what the probe adds, all that is always on, by what others add (medians)", "by");
        for other in [Tracer::Bpftrace, Tracer::Empty, Tracer::EmptyTwice, Tracer::Exporter] {
            let ratio = self.columns.iter().map(|(caller, call)| {
                let of = |tracer| median(&self.measured.get(&(tracer, *caller, *call))?.added);
                // Without overhead there is no ratio.
                let ratio = of(Tracer::Probe).zip(of(other).filter(|theirs| *theirs > 5.0));
                ratio.map(|(ours, theirs)| ours / theirs).into()
            });
            table.row([Cell::from(other.as_str())].into_iter().chain(ratio));
        }
        table
    }
}
