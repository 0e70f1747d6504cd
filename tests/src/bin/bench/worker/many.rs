//! Many calls at once: by several threads, or at a fixed rate, all of them counted.

use std::fmt;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::fdatasync;
use rustix::io;

use super::call::Files;
use crate::system;

/// The length of an interval, at the start of which its share of the rate is made.
const TURN: Duration = Duration::from_millis(5);

/// The maximum number of operations between two clock readings.
const AT_ONCE: u64 = 4096;

/// The operations of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub writes: u64,
    pub syncs: u64,
    pub took: Duration,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.writes, self.syncs, self.took.as_nanos())
    }
}

impl FromStr for Made {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [writes, syncs, took_ns] = numbers[..] else { bail!("cannot read `{line}`") };
        Ok(Self { writes, syncs, took: Duration::from_nanos(took_ns) })
    }
}

/// Makes `per_second` operations per second, or as many as possible: alternately writes and syncs. Delays are
/// made up for.
pub fn at_rate(files: &Files, per_second: u64, seconds: u64) -> anyhow::Result<Made> {
    let mut made = Made::default();
    let (lasting, started) = (Duration::from_secs(seconds), Instant::now());
    while started.elapsed() < lasting {
        let late = due(started.elapsed(), per_second).saturating_sub(made.writes + made.syncs);
        for _ in 0..late.min(AT_ONCE) {
            if made.writes == made.syncs {
                io::write(&files.segment, &[0])?;
                made.writes += 1;
            } else {
                fdatasync(files.segment.as_fd())?;
                made.syncs += 1;
            }
        }
        if late < AT_ONCE {
            thread::sleep(TURN);
        }
        // So that the segment does not grow.
        files.rewind()?;
    }
    made.took = started.elapsed();
    Ok(made)
}

/// Returns the number of operations due by then.
fn due(elapsed: Duration, per_second: u64) -> u64 {
    u64::try_from(elapsed.as_nanos() * u128::from(per_second) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// Returns nanoseconds of CPU per write while this many threads write.
pub fn cost(files: &Files, threads: u32, times: u32) -> anyhow::Result<f64> {
    let own = std::process::id();
    let each = times.div_ceil(threads);
    let before = system::cpu_time(own)?;
    thread::scope(|scope| {
        let writers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> io::Result<()> {
                    // At a fixed offset for each, so that the file does not grow.
                    (0..each).try_for_each(|_| io::pwrite(&files.segment, &[0], 0).map(drop))
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })
    .context("cannot write")?;
    let took = system::cpu_time(own)?.saturating_sub(before);
    Ok(took.as_nanos() as f64 / f64::from(each * threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_operations_follow_the_clock() {
        assert_eq!(due(Duration::from_millis(1500), 1000), 1500);
        assert_eq!(due(Duration::ZERO, 1000), 0, "nothing at once");
        assert_eq!(due(Duration::from_micros(999), 1000), 0, "not before its time");
    }

    #[test]
    fn a_workers_result_is_one_line() {
        let made = Made { writes: 3, syncs: 2, took: Duration::from_nanos(7) };
        assert_eq!(made.to_string().parse::<Made>().unwrap(), made);
        assert!("1 2".parse::<Made>().is_err(), "a line cut short");
    }
}
