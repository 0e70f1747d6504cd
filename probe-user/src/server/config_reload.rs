//! The web configuration in force, and how another one takes its place without a restart.
//!
//! Once a second the files are looked at, not read: a certificate that is rotated by renaming, or by moving a symbolic link as
//! Kubernetes does, is another file. What cannot be used changes nothing, and is told once and by a metric.

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
    auth::{Checker, Passwords},
    rate_limit::RateLimiter,
    server_tls,
    web_config::{Pem, WebConfig},
    web_error::WebError,
};
use crate::system::file_fingerprint::Fingerprint;

/// How often the files are looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);

/// What connections and requests are held against.
pub struct InForce {
    /// None serves plain HTTP.
    pub tls: Option<TlsAcceptor>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// None lets everybody in.
    pub passwords: Option<Passwords>,
    pub rate: Option<RateLimiter>,
}

/// Whether the last try to load the configuration succeeded; none without one. For the metrics.
#[derive(Clone, Debug, Default)]
pub struct Reloaded(Option<Arc<AtomicBool>>);

impl Reloaded {
    pub fn get(&self) -> Option<bool> {
        self.0.as_ref().map(|reloaded| reloaded.load(Relaxed))
    }
}

/// Keeps the configuration up to date.
pub struct Web {
    file: Option<PathBuf>,
    in_force: watch::Sender<Arc<InForce>>,
    seen: Seen,
    checker: Arc<Checker>,
    reloaded: Reloaded,
}

/// The files of a configuration, as they were before they were read.
type Seen = Vec<(PathBuf, Option<Fingerprint>)>;

impl Web {
    /// Reads the configuration for the first time; without a file everything is plain and open.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn load(file: Option<&Path>) -> Result<Self, WebError> {
        let checker = Arc::new(Checker::new());
        let Some(file) = file else {
            let open = InForce { tls: None, headers: Vec::new(), passwords: None, rate: None };
            return Ok(Self {
                file: None,
                in_force: watch::Sender::new(Arc::new(open)),
                seen: Vec::new(),
                checker,
                reloaded: Reloaded::default(),
            });
        };
        let mut seen = Seen::new();
        let in_force = load(file, &checker, &mut seen)?;
        Ok(Self {
            file: Some(file.to_owned()),
            in_force: watch::Sender::new(Arc::new(in_force)),
            seen,
            checker,
            reloaded: Reloaded(Some(Arc::new(AtomicBool::new(true)))),
        })
    }

    /// Returns where the configuration in force is to be had, and that there is another one.
    pub fn subscribe(&self) -> watch::Receiver<Arc<InForce>> {
        self.in_force.subscribe()
    }

    pub fn reloaded(&self) -> Reloaded {
        self.reloaded.clone()
    }

    /// Returns whether connections are encrypted, and whether requests need a password.
    pub fn protects(&self) -> (bool, bool) {
        let in_force = self.in_force.borrow();
        (in_force.tls.is_some(), in_force.passwords.is_some())
    }

    /// Loads the configuration anew whenever its files have changed. Ends never.
    pub async fn keep_up_to_date(mut self) {
        if self.file.is_none() {
            return std::future::pending().await;
        }
        let mut ticks = interval(LOOKED_AT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    fn look(&mut self) {
        let Some(file) = self.file.clone() else { return };
        if self.seen.iter().all(|(path, seen)| Fingerprint::of_path(path) == *seen) {
            return;
        }
        // Those of a broken one count, too: what it names may come later.
        let mut seen = Seen::new();
        let loaded = load(&file, &self.checker, &mut seen);
        let loaded = loaded.and_then(|in_force| self.refuse_to_open(&in_force).map(|()| in_force));
        self.seen = seen;
        let was_well = self.reloaded.get() == Some(true);
        let is_well = loaded.is_ok();
        match loaded.map_err(|error| crate::support::logging::chain(&error)) {
            Ok(in_force) => {
                self.in_force.send_replace(Arc::new(in_force));
                info!("web configuration loaded anew");
            }
            Err(error) if was_well => {
                warn!("the web configuration has changed, and the old one stays in force: {error}");
            }
            Err(error) => info!("the web configuration still cannot be used: {error}"),
        }
        if let Some(reloaded) = &self.reloaded.0 {
            reloaded.store(is_well, Relaxed);
        }
    }

    /// A file that an editor has emptied, or written by half, would let everybody in.
    fn refuse_to_open(&self, new: &InForce) -> Result<(), WebError> {
        let (encrypted, locked) = self.protects();
        let gone = match (encrypted && new.tls.is_none(), locked && new.passwords.is_none()) {
            (false, false) => return Ok(()),
            (true, _) => "TLS",
            (false, true) => "passwords",
        };
        Err(WebError::Wrong(format!("it does without {gone}, which takes a restart of the probe")))
    }
}

/// Reads a configuration, and notes each file before it is read, so that a later change is one.
fn load(file: &Path, checker: &Arc<Checker>, seen: &mut Seen) -> Result<InForce, WebError> {
    seen.push((file.to_owned(), Fingerprint::of_path(file)));
    let unreadable = |error| WebError::Unreadable {
        what: " of --web.config.file".to_owned(),
        path: file.to_owned(),
        error,
    };
    let content = server_tls::read(file).map_err(unreadable)?;
    let of_file = |wrong: &dyn std::fmt::Display| WebError::Wrong(format!("`{}`: {wrong}", file.display()));
    let yaml = String::from_utf8(content).map_err(|_| of_file(&"it is no text"))?;
    let config = WebConfig::parse(&yaml, file.parent().unwrap_or(Path::new("")));
    let config = config.map_err(|wrong| of_file(&wrong))?;
    let mut acceptor = None;
    if let Some(tls) = &config.tls {
        for pem in [Some(&tls.certificate), Some(&tls.key), tls.client_ca.as_ref()].into_iter().flatten() {
            if let Pem::File(path) = pem {
                seen.push((path.clone(), Fingerprint::of_path(path)));
            }
        }
        acceptor = Some(TlsAcceptor::from(Arc::new(server_tls::server_config(tls, config.http2)?)));
    }
    let passwords = (!config.users.is_empty()).then(|| Passwords::new(config.users, checker.clone()));
    let rate = config.rate_limit.map(RateLimiter::new);
    Ok(InForce { tls: acceptor, headers: config.headers, passwords, rate })
}
