//! What the sub-commands share: the start of the probe, the periodic scans and scrapes, the stop signal.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::config::{Causes, Options};
use crate::{
    analysis::{disk_metric::PerMetric, reexport::AllowList, thresholds::Thresholds},
    discovery::{Endpoint, Overrides},
    kernel::{
        self, Fault, KernelConfig,
        sampler::{self, SharedFindings},
    },
    monitor::{Monitor, MonitorSettings, SharedMonitor, lock, scrape_all},
    support::allocator,
    system::privileges,
};

/// How often members that came and went are looked for.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// Attaches, and looks for members once.
pub fn start(options: &Options, window: Duration, fault: Option<Fault>) -> anyhow::Result<SharedMonitor> {
    let config = KernelConfig { fault, ..KernelConfig::from(options) };
    let mut kernel = kernel::start(options.hook, &config).context("cannot start the kernel probe")?;
    info!(hook = kernel.hook().as_str(), "self-test passed");
    if let Some(failure) = kernel.block().failure() {
        warn!("block requests are not followed, so neither device nor neighbour can be named: {failure}");
    }
    // Before privileges are dropped: its thread keeps what reading stacks takes.
    let findings = match kernel.sampling() {
        Some((ring, memory)) => sampler::start(ring, memory, options.slow_threshold)
            .context("cannot look at what slow operations wait for")?,
        None => SharedFindings::default(),
    };
    let entrance = privileges::drop_capabilities(|| kernel.maps_answer())
        .context("cannot go on with fewer privileges")?;
    let mut monitor = Monitor::new(
        kernel,
        findings,
        MonitorSettings {
            process_names: options.process_name.clone(),
            overrides: overrides(options)?,
            command_timeout: options.command_timeout,
            entrance,
            window,
            thresholds: thresholds(options),
            allowed: Arc::new(AllowList::parse(&options.etcd_metrics).map_err(anyhow::Error::msg)?),
        },
    );
    monitor.scan();
    allocator::give_back();
    Ok(Arc::new(Mutex::new(monitor)))
}

/// Returns the limits for the verdicts.
fn thresholds(options: &Options) -> Thresholds {
    Thresholds {
        limit_s: PerMetric {
            wal_fsync: options.wal_fsync_limit.as_secs_f64(),
            backend_commit: options.backend_commit_limit.as_secs_f64(),
        },
        stall_limit_s: options.stall_limit.map(|limit| limit.as_secs_f64()),
        exact_causes: options.causes == Causes::Exact,
    }
}

/// Returns what the operator says instead of what is found.
pub fn overrides(options: &Options) -> anyhow::Result<Overrides> {
    let endpoints: Result<Vec<Endpoint>, _> =
        options.endpoints.iter().map(|url| Endpoint::parse(url)).collect();
    Ok(Overrides {
        endpoints: endpoints?,
        cacert: options.cacert.clone(),
        cert: options.cert.clone(),
        key: options.key.clone(),
        insecure_skip_tls_verify: options.insecure_skip_tls_verify,
        tls_server_name: options.tls_server_name.clone(),
    })
}

pub async fn scan_forever(monitor: &SharedMonitor) {
    let mut ticks = interval(SCAN_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        lock(monitor).scan();
    }
}

pub async fn scrape_forever(monitor: &SharedMonitor, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Not awaited: an etcd that hangs delays neither the others nor their next round, and is left out of that one.
        let monitor = monitor.clone();
        tokio::spawn(async move {
            scrape_all(&monitor).await;
            lock(&monitor).record_verdicts();
        });
    }
}

/// Returns a future that ends with SIGTERM or SIGINT; from here on neither ends the process by itself.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
