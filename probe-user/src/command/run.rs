//! `run`: the daemon.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context;
use tracing::{info, warn};

use super::{
    config::Options,
    startup::{scan_forever, scrape_forever, start, stop_signal},
};
use crate::{
    kernel::CountingFault,
    server::{self, AppState, config_reload::ConfigReloader, service_manager::ServiceManager},
};

pub async fn run(
    options: &Options,
    listen: SocketAddr,
    web_config: Option<&Path>,
    fault: Option<CountingFault>,
) -> anyhow::Result<()> {
    let web = ConfigReloader::load(web_config)?;
    // Before the programs are attached: a second probe must not disturb the first.
    let listener = server::bind(listen).await?;
    let stop = stop_signal()?;
    let monitor = start(options, options.window, fault)?;
    // Most privileges are dropped by now, and the notifications need none.
    let manager = ServiceManager::from_env().context("cannot connect to the service manager")?;
    let address = listener.local_addr().context("cannot read the address of the listening socket")?;
    info!(listen = %address, "attached");
    warn_if_exposed(address, &web);
    let state = AppState {
        monitor: monitor.clone(),
        operator_key: options.key.clone().map(Arc::from),
        last_reload: web.last_reload(),
    };
    let stop = async {
        stop.await;
        manager.notify_stopping();
    };
    tokio::select! {
        () = server::serve(listener, state, web, stop) => Ok(()),
        () = manager.report_status(&monitor) => Ok(()),
        () = scan_forever(&monitor) => Ok(()),
        () = scrape_forever(&monitor, options.scrape_interval) => Ok(()),
    }
}

/// Warns once if clients on other hosts can read the responses or the passwords.
fn warn_if_exposed(address: SocketAddr, web: &ConfigReloader) {
    match web.protects() {
        _ if address.ip().is_loopback() => {}
        (false, true) => {
            warn!(listen = %address, "passwords are sent unencrypted; configure TLS in --web.config.file");
        }
        (false, false) => {
            warn!(listen = %address, "any client that reaches this address can read everything; see --web.config.file");
        }
        (true, _) => {}
    }
}
