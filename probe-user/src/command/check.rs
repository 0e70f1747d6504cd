//! `check`: one report over a given time.

use std::{io::Write, time::Duration};

use anyhow::Context;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::{
    config::{Options, Output},
    startup::{scan_forever, scrape_forever, start, stop_signal},
};
use crate::{
    kernel::Fault,
    monitor::{lock, scrape_all},
    output::report,
};

/// `check` scrapes this often at least, since a quiet moment is a second long.
const CHECK_SCRAPES_EVERY: Duration = Duration::from_secs(1);

pub async fn check(
    options: &Options,
    duration: Duration,
    output: Output,
    fault: Option<Fault>,
) -> anyhow::Result<u8> {
    let stop = stop_signal()?;
    // The report covers the whole time.
    let monitor = start(options, duration + options.command_timeout, fault)?;
    let end = Instant::now() + duration;
    tokio::select! {
        () = sleep_until(end) => {}
        () = stop => info!("stopped early"),
        () = scan_forever(&monitor) => {}
        () = scrape_forever(&monitor, options.scrape_interval.min(CHECK_SCRAPES_EVERY)) => {}
    }
    // One more of each, so that the report ends now.
    scrape_all(&monitor).await;
    let report = {
        let mut monitor = lock(&monitor);
        monitor.run_self_test(Duration::ZERO);
        monitor.record_verdicts();
        report::report(&monitor.assess())
    };
    let printed = match output {
        // It leaves out colours where nobody sees them, or NO_COLOR says not to.
        Output::Text => anstream::stdout().write_all(report::render(&report).as_bytes()),
        Output::Json => {
            let text = serde_json::to_string_pretty(&report).context("cannot encode the report")? + "\n";
            std::io::stdout().write_all(text.as_bytes())
        }
    };
    printed.context("cannot print the report")?;
    Ok(report.exit_code())
}
