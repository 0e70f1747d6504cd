//! The parts that the sub-commands share: the start of the probe, the periodic scans and scrapes, the stop
//! signal.

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
        self, CountingFault, KernelConfig,
        sampler::{self, SharedResults},
    },
    monitor::{Monitor, MonitorSettings, SharedMonitor, lock, scrape_all},
    support::allocator,
    system::privileges,
};

/// The interval between scans for members that started or ended.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Attaches the programs, drops privileges, and scans for members once.
pub fn start(
    options: &Options,
    window: Duration,
    fault: Option<CountingFault>,
) -> anyhow::Result<SharedMonitor> {
    let config = KernelConfig { fault, ..KernelConfig::from(options) };
    let mut kernel = kernel::start(options.hook, &config).context("cannot start the kernel probe")?;
    info!(hook = kernel.hook().as_str(), "self-test passed");
    if let Some(failure) = kernel.block().failure() {
        warn!("cannot trace block requests, reports name no device and no neighbour: {failure}");
    }
    // Before privileges are dropped: the sampler thread keeps the privileges that reading stacks requires.
    let findings = match kernel.take_sampler_source() {
        Some((ring, memory)) => sampler::start(ring, memory, options.slow_threshold)
            .context("cannot sample the waits of slow operations")?,
        None => SharedResults::default(),
    };
    let netns_spawner =
        privileges::drop_capabilities(|| kernel.maps_are_accessible()).context("cannot drop privileges")?;
    let mut monitor = Monitor::new(
        kernel,
        findings,
        MonitorSettings {
            process_names: options.process_name.clone(),
            overrides: overrides(options)?,
            command_timeout: options.command_timeout,
            netns_spawner,
            window,
            thresholds: thresholds(options),
            allow_list: Arc::new(AllowList::parse(&options.etcd_metrics).map_err(anyhow::Error::msg)?),
        },
    );
    monitor.scan();
    allocator::trim();
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

/// Returns the settings of the operator that override the discovered ones.
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
    let mut ticks = interval(SCAN_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        lock(monitor).scan();
    }
}

pub async fn scrape_forever(monitor: &SharedMonitor, period: Duration) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Not awaited: an etcd that hangs does not delay the others or their next round, which omits it.
        let monitor = monitor.clone();
        tokio::spawn(async move {
            scrape_all(&monitor).await;
            lock(&monitor).record_verdicts();
        });
    }
}

/// Returns a future that completes on SIGTERM or SIGINT; from here on, these signals do not end the process.
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
