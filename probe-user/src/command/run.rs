//! `run`: the daemon.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context;
use tracing::{info, warn};

use super::{
    config::Options,
    startup::{scan_forever, scrape_forever, start, stop_signal},
};
use crate::{
    kernel::Fault,
    server::{self, AppState, config_reload::Web, service_manager::ServiceManager},
};

pub async fn run(
    options: &Options,
    listen: SocketAddr,
    web_config: Option<&Path>,
    fault: Option<Fault>,
) -> anyhow::Result<()> {
    let web = Web::load(web_config)?;
    // Before anything is attached: a second probe must not disturb the first.
    let listener = server::bind(listen).await?;
    let stop = stop_signal()?;
    let monitor = start(options, options.window, fault)?;
    // By now there are few privileges, and speaking takes none.
    let manager = ServiceManager::of_environment().context("cannot speak to the service manager")?;
    let address = listener.local_addr().context("cannot tell the address listened on")?;
    info!(listen = %address, "attached");
    warn_of_strangers(address, &web);
    let served = AppState {
        monitor: monitor.clone(),
        operator_key: options.key.clone().map(Arc::from),
        reloaded: web.reloaded(),
    };
    let stop = async {
        stop.await;
        manager.tell_stopping();
    };
    tokio::select! {
        () = server::serve(listener, served, web, stop) => Ok(()),
        () = manager.keep_informed(&monitor) => Ok(()),
        () = scan_forever(&monitor) => Ok(()),
        () = scrape_forever(&monitor, options.scrape_interval) => Ok(()),
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
