//! Hot reload of the web configuration.
//!
//! Once a second the fingerprints of the files are compared, without reading the files: a certificate that is
//! rotated by a rename, or by another target of a symbolic link as in Kubernetes, is a different file. An
//! invalid configuration changes nothing; it is logged once and reported by a metric.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::{
    auth::{PasswordChecker, Passwords},
    rate_limit::RateLimiter,
    server_tls,
    web_config::{Pem, WebConfig},
    web_error::WebError,
};
use crate::system::file_fingerprint::Fingerprint;

/// Interval between two checks of the files.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The configuration that applies to connections and requests.
pub struct ActiveConfig {
    /// None serves plain HTTP.
    pub tls: Option<TlsAcceptor>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// None grants access to every client.
    pub passwords: Option<Passwords>,
    pub rate: Option<RateLimiter>,
}

/// Whether the last reload succeeded; none without a web configuration. Exported as a metric.
#[derive(Clone, Debug, Default)]
pub struct LastReload(Option<Arc<AtomicBool>>);

impl LastReload {
    pub fn get(&self) -> Option<bool> {
        self.0.as_ref().map(|last_reload| last_reload.load(Relaxed))
    }
}

/// Reloads the configuration when its files change.
pub struct ConfigReloader {
    file: Option<PathBuf>,
    active: watch::Sender<Arc<ActiveConfig>>,
    watched: WatchedFiles,
    checker: Arc<PasswordChecker>,
    last_reload: LastReload,
}

/// The files of a configuration, with their fingerprints before they were read.
type WatchedFiles = Vec<(PathBuf, Option<Fingerprint>)>;

impl ConfigReloader {
    /// Loads the configuration for the first time. Without a file, the server is plain and open.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn load(file: Option<&Path>) -> Result<Self, WebError> {
        let checker = Arc::new(PasswordChecker::new());
        let Some(file) = file else {
            let open = ActiveConfig { tls: None, headers: Vec::new(), passwords: None, rate: None };
            return Ok(Self {
                file: None,
                active: watch::Sender::new(Arc::new(open)),
                watched: Vec::new(),
                checker,
                last_reload: LastReload::default(),
            });
        };
        let mut watched = WatchedFiles::new();
        let active = load(file, &checker, &mut watched)?;
        Ok(Self {
            file: Some(file.to_owned()),
            active: watch::Sender::new(Arc::new(active)),
            watched,
            checker,
            last_reload: LastReload(Some(Arc::new(AtomicBool::new(true)))),
        })
    }

    /// Returns a receiver of the active configuration, which also signals a change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ActiveConfig>> {
        self.active.subscribe()
    }

    pub fn last_reload(&self) -> LastReload {
        self.last_reload.clone()
    }

    /// Returns whether connections are encrypted, and whether requests require a password.
    pub fn protects(&self) -> (bool, bool) {
        let active = self.active.borrow();
        (active.tls.is_some(), active.passwords.is_some())
    }

    /// Reloads the configuration whenever its files have changed. Never returns.
    pub async fn run(mut self) {
        if self.file.is_none() {
            return std::future::pending().await;
        }
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.reload_if_changed();
        }
    }

    fn reload_if_changed(&mut self) {
        let Some(file) = self.file.clone() else { return };
        if self.watched.iter().all(|(path, watched)| Fingerprint::of_path(path) == *watched) {
            return;
        }
        // The files of an invalid configuration are watched, too: a missing one may be created later.
        let mut watched = WatchedFiles::new();
        let loaded = load(&file, &self.checker, &mut watched);
        let loaded = loaded.and_then(|active| self.reject_downgrade(&active).map(|()| active));
        self.watched = watched;
        let was_valid = self.last_reload.get() == Some(true);
        let is_valid = loaded.is_ok();
        match loaded.map_err(|error| crate::support::logging::chain(&error)) {
            Ok(active) => {
                self.active.send_replace(Arc::new(active));
                info!("web configuration reloaded");
            }
            Err(error) if was_valid => {
                warn!("cannot reload the web configuration; the previous one stays active: {error}");
            }
            Err(error) => info!("the web configuration is still invalid: {error}"),
        }
        if let Some(last_reload) = &self.last_reload.0 {
            last_reload.store(is_valid, Relaxed);
        }
    }

    /// Rejects the loss of TLS or passwords: a file that an editor has truncated would grant access to every
    /// client.
    fn reject_downgrade(&self, new: &ActiveConfig) -> Result<(), WebError> {
        let (encrypted, authenticated) = self.protects();
        let gone = match (encrypted && new.tls.is_none(), authenticated && new.passwords.is_none()) {
            (false, false) => return Ok(()),
            (true, _) => "TLS",
            (false, true) => "passwords",
        };
        Err(WebError::Invalid(format!("the new configuration drops {gone}; restart the probe to apply it")))
    }
}

/// Loads a configuration. Records each fingerprint before the file is read, so that a later change is
/// detected.
fn load(
    file: &Path,
    checker: &Arc<PasswordChecker>,
    watched: &mut WatchedFiles,
) -> Result<ActiveConfig, WebError> {
    watched.push((file.to_owned(), Fingerprint::of_path(file)));
    let unreadable = |error| WebError::Unreadable {
        what: " of --web.config.file".to_owned(),
        path: file.to_owned(),
        error,
    };
    let content = server_tls::read(file).map_err(unreadable)?;
    let of_file =
        |invalid: &dyn std::fmt::Display| WebError::Invalid(format!("`{}`: {invalid}", file.display()));
    let yaml = String::from_utf8(content).map_err(|_| of_file(&"it is not UTF-8 text"))?;
    let config = WebConfig::parse(&yaml, file.parent().unwrap_or(Path::new("")));
    let config = config.map_err(|invalid| of_file(&invalid))?;
    let mut acceptor = None;
    if let Some(tls) = &config.tls {
        for pem in [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref()].into_iter().flatten() {
            if let Pem::File(path) = pem {
                watched.push((path.clone(), Fingerprint::of_path(path)));
            }
        }
        acceptor = Some(TlsAcceptor::from(Arc::new(server_tls::server_config(tls, config.http2)?)));
    }
    let passwords = (!config.users.is_empty()).then(|| Passwords::new(config.users, checker.clone()));
    let rate = config.rate_limit.map(RateLimiter::new);
    Ok(ActiveConfig { tls: acceptor, headers: config.headers, passwords, rate })
}
