//! Runs the probe on a real etcd with client-certificate TLS under load, and prints its report.
//!
//! The probe gets no configuration for either. Progress goes to standard error, the report to standard
//! output.

use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use probe_tests::etcd::certs::Mutual;
use probe_tests::etcd::load::{Amount, Done, Load};
use probe_tests::etcd::{Etcd, Member};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::{Finished, Invocation};

/// The size of a segment of etcd's WAL; one byte more rotates it.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Puts of the trial that measures the speed of this machine.
const TRIAL_PUTS: u64 = 500;

/// How long etcd is idle at the end of the measurement, so that no event is in flight.
const IDLE: Duration = Duration::from_secs(4);

/// How long the probe may run beyond its duration.
const GRACE: Duration = Duration::from_secs(30);

/// Runs the probe on a real etcd under load and prints its report.
#[derive(Debug, Parser)]
struct Args {
    /// The binary of the probe.
    #[arg(long, value_name = "PATH")]
    probe: PathBuf,
    /// The etcd to start.
    #[arg(long, value_name = "PATH")]
    etcd: PathBuf,
    /// The number of values to put during the measurement.
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u64).range(1_000..=200_000))]
    puts: u64,
    /// The directory for etcd's data; the demo measures its disk and removes the data.
    #[arg(long, value_name = "PATH", default_value = "/var/tmp")]
    dir: PathBuf,
    /// Keep certificates, data and logs.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            step(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(reason) = requirements::missing(&[Need::Root, Need::Bpf]).into_iter().next() {
        bail!("{reason}");
    }
    let stop = Cancel::on_signals()?;
    let mut scratch = Scratch::new(&args.dir, "etcd-disk-probe-demo")?;
    if args.keep {
        scratch.keep();
        step(&format!("keeping everything in {}", scratch.path().display()));
    }
    let etcd = start_etcd(args, scratch.path(), &stop).context("cannot start etcd")?;
    let plan = plan(args, &etcd, &stop).context("cannot put a trial load on etcd")?;
    let finished = measure(args, scratch.path(), &etcd, &plan, &stop).context("cannot measure")?;
    step(&format!("rotations of the WAL: {}; stopping etcd", etcd.rotations()?));
    drop(etcd);

    print!("{}", finished.stdout);
    match finished.code {
        // Any verdict on this disk.
        Some(0 | 1) => Ok(ExitCode::SUCCESS),
        Some(code) => {
            bail!("the probe has no result, exit code {code}: {}", finished.stderr.trim())
        }
        None => bail!("a signal ended the probe: {}", finished.stderr.trim()),
    }
}

fn start_etcd(args: &Args, directory: &Path, stop: &Cancel) -> anyhow::Result<Etcd> {
    step("creating an authority, a server certificate and a client certificate");
    let tls = Mutual::create(directory)?;
    step(&format!("starting {}, which requires client certificates", args.etcd.display()));
    let member = Member::new(&args.etcd, "demo", directory).tls(&tls).cancel_with(stop);
    // Room for the largest load, and no housekeeping in the middle of it.
    let etcd = member.set("quota-backend-bytes", (8_u64 << 30).to_string()).start()?;
    step(&format!("etcd is healthy at {}, pid {}", etcd.endpoint().url(), etcd.pid()));
    Ok(etcd)
}

/// The load, and the duration of the measurement.
struct Plan {
    load: Load,
    puts: u64,
    duration: Duration,
}

/// Measures how long the load takes on this machine. Its values are large enough to rotate the WAL.
fn plan(args: &Args, etcd: &Etcd, stop: &Cancel) -> anyhow::Result<Plan> {
    let value_bytes = usize::try_from(value_bytes(args.puts)).context("cannot put values of that size")?;
    let load = Load { value_bytes, ..Load::default() };
    step(&format!("measuring the speed of this machine with {TRIAL_PUTS} puts"));
    let trial = Load { amount: Amount::Puts(TRIAL_PUTS), ..load }.start(etcd.endpoint());
    let rate = trial.wait_with(|_| interrupted(stop))?.rate();
    let duration = duration(args.puts, rate);
    Ok(Plan { load, puts: args.puts, duration })
}

/// Returns a size with which so many puts fill a segment and a quarter, 4 KiB at least.
fn value_bytes(puts: u64) -> u64 {
    (SEGMENT_BYTES + SEGMENT_BYTES / 4).div_ceil(puts).max(4096)
}

/// Returns the duration of a measurement that includes so many puts and the idle time, in whole seconds.
///
/// Between 20 s and 3 min; a load that does not fit ends early.
fn duration(puts: u64, rate: f64) -> Duration {
    let load_seconds = (puts as f64 / rate.max(1.0) * 1.2).clamp(16.0, 176.0);
    Duration::from_secs_f64(load_seconds.ceil()) + IDLE
}

fn measure(
    args: &Args,
    directory: &Path,
    etcd: &Etcd,
    plan: &Plan,
    stop: &Cancel,
) -> anyhow::Result<Finished> {
    let &Plan { load, puts, duration } = plan;
    let seconds = duration.as_secs();
    step(&format!("`{} check --duration {seconds}s`", args.probe.display()));
    let invocation = Invocation::new(&args.probe, directory);
    let mut probe = invocation.arguments(&["--duration", &format!("{seconds}s")]).start("check")?;
    let deadline = Instant::now() + duration + GRACE;

    let kib = load.value_bytes / 1024;
    step(&format!("putting {puts} values of {kib} KiB over {} connections", load.connections));
    let load = Load { amount: Amount::PutsWithin(puts, duration.saturating_sub(IDLE)), ..load };
    let done = load.start(etcd.endpoint()).wait_with(|so_far| {
        counter(so_far, puts);
        if let Some(early) = probe.try_finished()? {
            bail!("the probe ended early, exit code {:?}: {}", early.code, early.stderr.trim());
        }
        interrupted(stop)
    })?;
    step(&format!(
        "put {} values, {:.0} per second; etcd is idle until the measurement ends",
        done.puts,
        done.rate()
    ));

    let left = deadline.saturating_duration_since(Instant::now());
    let finished = stop.wait_for(left, || probe.try_finished())?;
    finished
        .with_context(|| format!("the probe has not ended after {seconds} s and {GRACE:?}; {}", probe.tail()))
}

fn interrupted(stop: &Cancel) -> anyhow::Result<()> {
    if stop.is_cancelled() {
        bail!("interrupted");
    }
    Ok(())
}

/// Prints one line, over the counter if that is shown.
fn step(what: &str) {
    let clear = if stderr().is_terminal() { "\x1b[K" } else { "" };
    eprintln!("{clear}demo: {what}");
}

/// Prints the progress of the load: in place on a terminal, as lines elsewhere.
fn counter(so_far: Done, puts: u64) {
    let line = format!("{} of {puts} puts, {:.0} per second", so_far.puts, so_far.rate());
    if stderr().is_terminal() {
        eprint!("\x1b[Kdemo: {line}\r");
        // The demo continues without a counter that cannot be shown.
        let _ = stderr().flush();
    } else {
        step(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_puts_rotates_the_wal() {
        for puts in [1_000, 10_000, 40_000, 200_000] {
            assert!(value_bytes(puts) * puts > SEGMENT_BYTES, "{puts} puts");
        }
        assert_eq!(value_bytes(40_000), 4096, "not smaller than what rotates it twice");
    }

    #[test]
    fn the_measurement_lasts_as_long_as_the_load() {
        let cases = [
            (40_000, 2_000.0, 28, "20 s, a fifth more, and the idle time"),
            (1_000, 2_000.0, 20, "never too short for a report"),
            (40_000, 10.0, 180, "never longer than 3 minutes"),
        ];
        for (puts, rate, seconds, why) in cases {
            assert_eq!(duration(puts, rate).as_secs(), seconds, "{why}");
        }
    }
}
