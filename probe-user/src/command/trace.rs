//! `trace`: one line for every slow operation when it ends.

use std::{io::Write, time::Duration};

use anyhow::Context;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::startup::{scan_forever, start, stop_signal};
use crate::{
    command::config::{Options, OutputFormat},
    monitor::{SharedMonitor, lock},
    output::report::slow_report,
};

/// The interval between checks for new operations.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Prints slow operations until stopped, or for the given duration.
///
/// # Errors
/// If the probe cannot start, or the output is closed.
pub async fn run(
    options: &Options,
    slower_than: Duration,
    duration: Option<Duration>,
    output: OutputFormat,
) -> anyhow::Result<u8> {
    let stop = stop_signal()?;
    let options = Options { slow_threshold: slower_than, ..options.clone() };
    let monitor = start(&options, options.window, None)?;
    // One year: practically never.
    let end = Instant::now() + duration.unwrap_or(Duration::from_hours(24 * 365));
    let mut next = 0;
    tokio::select! {
        () = sleep_until(end) => {}
        () = stop => {}
        () = scan_forever(&monitor) => {}
        printed = print_forever(&monitor, output, &mut next) => return printed.map(|()| 0),
    }
    // Operations that ended since the last poll.
    print_new(&monitor, output, &mut next)?;
    Ok(0)
}

async fn print_forever(monitor: &SharedMonitor, output: OutputFormat, next: &mut u64) -> anyhow::Result<()> {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        print_new(monitor, output, next)?;
    }
}

/// Prints the operations from `next` on, and advances it.
fn print_new(monitor: &SharedMonitor, output: OutputFormat, next: &mut u64) -> anyhow::Result<()> {
    let mut text = String::new();
    {
        let mut monitor = lock(monitor);
        monitor.drain_sampler();
        for logged in monitor.slow_log().since(*next) {
            *next = logged.sequence + 1;
            let operation = slow_report::describe(logged, |id| monitor.cgroup(id));
            match output {
                OutputFormat::Text => text.push_str(&slow_report::line(&operation)),
                OutputFormat::Json => {
                    text.push_str(&serde_json::to_string(&operation).context("cannot encode an operation")?);
                }
            }
            text.push('\n');
        }
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot print an operation")
}
