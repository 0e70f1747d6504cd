//! The commands: start everything in order, stop it in order.

use std::{
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{info, warn};

use crate::{
    command::{
        config::{Config, Options, Output, Task},
        doctor,
    },
    discovery::{Endpoint, Overrides},
    etcd::AllowList,
    kernel::{
        self, Fault, KernelConfig,
        sampler::{self, SharedFindings},
    },
    monitor::{Monitor, Settings, Shared, lock, scrape_all},
    output::report,
    server::{self, Served, config_reload::Web, service_manager::ServiceManager},
    support::allocator,
    system::privileges,
};

/// How often members that came and went are looked for.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// `check` scrapes this often at least, since a quiet moment is a second long.
const CHECK_SCRAPES_EVERY: Duration = Duration::from_secs(1);

/// Listening failed; the exit code tells it from other failures.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; is another probe running, or take another address with --listen")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Runs a command to its end and returns the exit code.
///
/// # Errors
/// One sentence from intent to cause; nothing is left attached.
pub fn run(config: &Config) -> anyhow::Result<u8> {
    run_with(config, None)
}

/// [`run`] with a fault that the cross-check has to find; for tests.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// If no runtime can be made, for want of descriptors.
#[tokio::main(flavor = "current_thread")]
pub async fn run_with(config: &Config, fault: Option<Fault>) -> anyhow::Result<u8> {
    match config.command {
        Task::Run { listen, ref web_config } => {
            run_daemon(&config.options, listen, web_config.as_deref(), fault).await.map(|()| 0)
        }
        Task::Check { duration, output } => check(&config.options, duration, output, fault).await,
        Task::Trace { slower_than, duration, output } => {
            trace::run(&config.options, slower_than, duration, output).await
        }
        Task::Doctor { output } => examine(&config.options, output).await,
    }
}

async fn run_daemon(
    options: &Options,
    listen: SocketAddr,
    web_config: Option<&Path>,
    fault: Option<Fault>,
) -> anyhow::Result<()> {
    let web = Web::load(web_config)?;
    // Before anything is attached: a second probe must not disturb the first.
    let listener =
        TcpListener::bind(listen).await.map_err(|source| ListenError { address: listen, source })?;
    let stop = stop_signal()?;
    let monitor = start(options, options.window, fault)?;
    // By now there are few privileges, and speaking takes none.
    let manager = ServiceManager::of_environment().context("cannot speak to the service manager")?;
    let address = listener.local_addr().context("cannot tell the address listened on")?;
    info!(listen = %address, "attached");
    warn_of_strangers(address, &web);
    let served =
        Served { monitor: monitor.clone(), options: Arc::new(options.clone()), reloaded: web.reloaded() };
    let stop = async {
        stop.await;
        manager.tell_stopping();
    };
    tokio::select! {
        () = server::serve(listener, served, web, stop) => Ok(()),
        () = manager.keep_informed(&monitor) => Ok(()),
        () = scan_forever(&monitor) => Ok(()),
        () = scrape_forever(&monitor, options.scrape_interval, options) => Ok(()),
    }
}

/// Says once who can read what is served, where that is not only this host.
fn warn_of_strangers(address: SocketAddr, web: &Web) {
    match web.protects() {
        _ if address.ip().is_loopback() => {}
        (false, true) => warn!(listen = %address, "passwords go over the network in the clear: without TLS"),
        (false, false) => {
            warn!(listen = %address, "whoever reaches this address reads everything; see --web.config.file");
        }
        (true, _) => {}
    }
}

async fn check(
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
        () = scrape_forever(&monitor, options.scrape_interval.min(CHECK_SCRAPES_EVERY), options) => {}
    }
    // One more of each, so that the report ends now.
    scrape_all(&monitor).await;
    let report = {
        let mut monitor = lock(&monitor);
        monitor.test_eyesight(Duration::ZERO);
        report::note_verdicts(&mut monitor, options);
        report::report(&monitor, options)
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

async fn examine(options: &Options, output: Output) -> anyhow::Result<u8> {
    let diagnosis = doctor::examine(options, &overrides(options)?).await;
    let text = match output {
        Output::Text => doctor::render(&diagnosis),
        Output::Json => {
            serde_json::to_string_pretty(&diagnosis).context("cannot encode the diagnosis")? + "\n"
        }
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the diagnosis")?;
    Ok(diagnosis.exit_code())
}

/// Attaches, and looks for members once.
fn start(options: &Options, window: Duration, fault: Option<Fault>) -> anyhow::Result<Shared> {
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
    let entrance = privileges::drop_to_readers(&mut kernel).context("cannot go on with fewer privileges")?;
    let mut monitor = Monitor::new(
        kernel,
        findings,
        Settings {
            process_names: options.process_name.clone(),
            overrides: overrides(options)?,
            command_timeout: options.command_timeout,
            entrance,
            window,
            allowed: Arc::new(AllowList::parse(&options.etcd_metrics).map_err(anyhow::Error::msg)?),
        },
    );
    monitor.scan();
    allocator::give_back();
    Ok(Arc::new(Mutex::new(monitor)))
}

/// Returns what the operator says instead of what is found.
fn overrides(options: &Options) -> anyhow::Result<Overrides> {
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

async fn scan_forever(monitor: &Shared) {
    let mut ticks = interval(SCAN_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        lock(monitor).scan();
    }
}

async fn scrape_forever(monitor: &Shared, every: Duration, options: &Options) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Not awaited: an etcd that hangs delays neither the others nor their next round, and is left out of that one.
        let (monitor, options) = (monitor.clone(), options.clone());
        tokio::spawn(async move {
            scrape_all(&monitor).await;
            report::note_verdicts(&mut lock(&monitor), &options);
        });
    }
}

/// Returns a future that ends with SIGTERM or SIGINT; from here on neither ends the process by itself.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
