//! `check`: one report over a given duration.

use std::{io::Write, time::Duration};

use anyhow::Context;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::{
    config::{Options, OutputFormat},
    startup::{scan_forever, scrape_forever, start, stop_signal},
};
use crate::{
    kernel::CountingFault,
    monitor::{lock, scrape_all},
    output::report,
};

/// The maximum interval between scrapes of `check`, because a quiet period lasts one second.
const CHECK_SCRAPE_INTERVAL_MAX: Duration = Duration::from_secs(1);

pub async fn check(
    options: &Options,
    duration: Duration,
    output: OutputFormat,
    fault: Option<CountingFault>,
) -> anyhow::Result<u8> {
    let stop = stop_signal()?;
    // The report covers the whole duration.
    let monitor = start(options, duration + options.command_timeout, fault)?;
    let end = Instant::now() + duration;
    tokio::select! {
        () = sleep_until(end) => {}
        () = stop => info!("stopped early"),
        () = scan_forever(&monitor) => {}
        () = scrape_forever(&monitor, options.scrape_interval.min(CHECK_SCRAPE_INTERVAL_MAX)) => {}
    }
    // One more scrape and self-test, so that the report covers the time until now.
    scrape_all(&monitor).await;
    let report = {
        let mut monitor = lock(&monitor);
        monitor.run_self_test(Duration::ZERO);
        monitor.record_verdicts();
        report::report(&monitor.assess())
    };
    let printed = match output {
        // Omits colours if the output is not a terminal or NO_COLOR is set.
        OutputFormat::Text => anstream::stdout().write_all(report::render(&report).as_bytes()),
        OutputFormat::Json => {
            let text = serde_json::to_string_pretty(&report).context("cannot encode the report")? + "\n";
            std::io::stdout().write_all(text.as_bytes())
        }
    };
    printed.context("cannot print the report")?;
    Ok(report.exit_code())
}
