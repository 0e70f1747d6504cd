//! A persistent connection to one etcd, which is replaced only after a new one has yielded a scrape.

mod response_body;
mod connection;
mod recv_low_water;

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use connection::{Connection, TlsSession};
use recv_low_water::LowWater;

use super::credential_files::Fingerprints;
use super::{
    certificate,
    client_tls::TlsSetup,
    dial::{self, Connected, Connecting, Stream},
    error::{ConnectionStage, ScrapeError, ScrapeFailure},
    scrape_text::Scrape,
};
use crate::analysis::{certificate_expiry::Validity, reexport::AllowList, scrape_failure::Reason};
use crate::{discovery::Endpoint, system::netns_spawner::NetnsSpawner};

/// Maximum age of a TLS connection. Detects that a server's certificate was replaced where the probe cannot
/// see the files.
const RECONNECT_INTERVAL: Duration = Duration::from_hours(1);

/// Time limit for the fingerprints of the files. After it, the existing connection is used.
const FINGERPRINT_TIMEOUT: Duration = Duration::from_millis(500);

/// Scrapes one etcd over a persistent connection.
///
/// Before each scrape over TLS, the fingerprints of the files are compared. When a file has changed, a new
/// connection is established with the new files. The old connection stays until the new one has yielded a
/// scrape, so an incomplete rotation loses no scrape.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<Endpoint>,
    /// Index of the endpoint that is tried first: it answered last, or is the next in rotation.
    current: usize,
    timeout: Duration,
    spawner: NetnsSpawner,
    /// Families that are re-exported.
    allowed: Arc<AllowList>,
    connection: Option<Connection>,
    /// A connection attempt that outlived its scrape. No second attempt is started meanwhile.
    connecting: Option<Connecting>,
    /// A computation of fingerprints that outlived its scrape. No second one is started meanwhile.
    fingerprinting: Option<oneshot::Receiver<Fingerprints>>,
    /// Why the last renewal of the connection failed, if it did; a reason is logged once.
    renewal_failure: Option<Reason>,
}

impl Client {
    /// Creates a client for the endpoints of one etcd. A scrape takes at most `timeout`.
    pub fn new(endpoints: Vec<Endpoint>, timeout: Duration) -> Self {
        Self {
            endpoints,
            current: 0,
            timeout,
            spawner: NetnsSpawner::default(),
            allowed: Arc::default(),
            connection: None,
            connecting: None,
            fingerprinting: None,
            renewal_failure: None,
        }
    }

    /// Sets the spawner of threads that may enter other network namespaces.
    #[must_use]
    pub fn with_spawner(mut self, spawner: NetnsSpawner) -> Self {
        self.spawner = spawner;
        self
    }

    /// Sets the families to re-export; by default none.
    #[must_use]
    pub fn with_allow_list(mut self, allowed: Arc<AllowList>) -> Self {
        self.allowed = allowed;
        self
    }

    /// Returns the endpoint that the next scrape tries first: after a success, the one that answered.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.get(self.current)
    }

    /// Returns the validity of the chain that the server presented on the current connection; none without
    /// TLS.
    pub fn presented(&self) -> Option<Validity> {
        self.connection.as_ref()?.tls_session.as_ref()?.presented
    }

    /// Scrapes once: tries the endpoints in order until one answers or the time is up.
    ///
    /// # Errors
    ///
    /// The failure of the endpoint that was tried first.
    pub async fn scrape(&mut self) -> Result<Scrape, ScrapeFailure> {
        let deadline = Instant::now() + self.timeout;
        let mut failure = None;
        for _ in 0..self.endpoints.len() {
            let outcome = timeout_at(deadline, self.try_scrape(deadline)).await;
            let error = match outcome {
                Ok(Ok(scrape)) => return Ok(scrape),
                Ok(Err(error)) => error,
                Err(_) => ScrapeError::Timeout(self.timeout),
            };
            // Also cancels a request in flight: its late response must not be taken for the next one.
            self.connection = None;
            let late = matches!(error, ScrapeError::Timeout(_));
            let endpoint = self.endpoint().map(ToString::to_string);
            failure = failure.or(Some(ScrapeFailure { endpoint, error }));
            // A pending connection attempt belongs to this endpoint, so the index does not advance.
            if self.connecting.is_none() {
                self.current = (self.current + 1) % self.endpoints.len();
            }
            if late {
                break;
            }
        }
        Err(failure.unwrap_or(ScrapeFailure { endpoint: None, error: ScrapeError::NoEndpoint }))
    }

    async fn try_scrape(&mut self, deadline: Instant) -> Result<Scrape, ScrapeError> {
        let endpoint = self.endpoint().ok_or(ScrapeError::NoEndpoint)?.clone();
        if self.is_renewal_due(&endpoint).await
            && let Some(scrape) = self.renew(&endpoint, deadline).await
        {
            return Ok(scrape);
        }
        if let Some(connection) = &mut self.connection {
            // etcd may have closed the connection meanwhile; this is detected only on use.
            match connection.get(&endpoint).await.and_then(|body| Scrape::parse(&body, &self.allowed)) {
                Err(error) if error.is_incomplete() => self.connection = None,
                outcome => return outcome,
            }
        }
        self.scrape_new_connection(&endpoint).await
    }

    /// Returns whether the connection should be renewed.
    async fn is_renewal_due(&mut self, endpoint: &Endpoint) -> bool {
        let Some(tls_session) =
            self.connection.as_ref().and_then(|connection| connection.tls_session.as_ref())
        else {
            return false;
        };
        if tls_session.since.elapsed() > RECONNECT_INTERVAL {
            return true;
        }
        let fingerprinting = match &mut self.fingerprinting {
            Some(fingerprinting) => fingerprinting,
            none => match Fingerprints::start(&endpoint.credentials) {
                Ok(fingerprinting) => none.insert(fingerprinting),
                // If no thread can be started, a new connection cannot be established either.
                Err(_) => return false,
            },
        };
        let Ok(outcome) = timeout(FINGERPRINT_TIMEOUT, fingerprinting).await else { return false };
        self.fingerprinting = None;
        outcome.is_ok_and(|fingerprints| fingerprints != tls_session.fingerprints)
    }

    /// Scrapes over a new connection, in half of the remaining time; the other half is for the old
    /// connection.
    async fn renew(&mut self, endpoint: &Endpoint, deadline: Instant) -> Option<Scrape> {
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        let error = match timeout(half, self.scrape_new_connection(endpoint)).await {
            Ok(Ok(scrape)) => {
                self.renewal_failure = None;
                info!(%endpoint, "reconnected to etcd with the current certificates");
                return Some(scrape);
            }
            Ok(Err(error)) => error,
            Err(_) => ScrapeError::Timeout(half),
        };
        let reason = error.reason();
        if self.renewal_failure.replace(reason) != Some(reason) {
            let error = crate::support::logging::chain(&error);
            warn!(
                %endpoint,
                reason = reason.as_str(),
                "cannot reconnect to etcd with the new certificates; scrapes continue over the old \
                 connection: {error}"
            );
        }
        None
    }

    /// Scrapes over a new connection, which is kept on success.
    async fn scrape_new_connection(&mut self, endpoint: &Endpoint) -> Result<Scrape, ScrapeError> {
        let mut connection = self.connect(endpoint).await?;
        match connection.get(endpoint).await.and_then(|body| Scrape::parse(&body, &self.allowed)) {
            Ok(scrape) => {
                self.connection = Some(connection);
                Ok(scrape)
            }
            Err(error) => Err(connection.root_cause(error).await),
        }
    }

    async fn connect(&mut self, endpoint: &Endpoint) -> Result<Connection, ScrapeError> {
        let connecting = match &mut self.connecting {
            Some(connecting) => connecting,
            none => none.insert(dial::start(endpoint, self.timeout, &self.spawner)?),
        };
        let outcome = connecting.await;
        self.connecting = None;
        let Connected { stream, tls } = outcome.map_err(|error| ScrapeError::Broken(error.into()))??;
        match stream {
            Stream::Tcp(stream) => {
                let stream = TcpStream::from_std(stream).map_err(ScrapeError::Connect)?;
                let encoding = connection::accepted_encoding(&stream);
                let low_water = LowWater::of(&stream);
                negotiate(stream, encoding, low_water, tls).await
            }
            Stream::Unix(stream) => {
                let stream = UnixStream::from_std(stream).map_err(ScrapeError::Connect)?;
                negotiate(stream, connection::IDENTITY_ENCODING, LowWater::default(), tls).await
            }
        }
    }
}

/// Performs the TLS handshake, if any, and the HTTP handshake.
async fn negotiate(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    encoding: &'static str,
    low_water: LowWater,
    tls: Option<(TlsSetup, Fingerprints)>,
) -> Result<Connection, ScrapeError> {
    let Some((setup, fingerprints)) = tls else {
        return Connection::open(stream, encoding, low_water, None).await;
    };
    let stream = TlsConnector::from(setup.config.clone()).connect(setup.name.clone(), stream).await;
    let stream = stream.map_err(|error| {
        let stage = ConnectionStage::Handshake { client_auth: setup.client_auth() };
        ScrapeError::from_connection(error.into(), stage).with_client_cert(setup.presented())
    })?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let presented = certificate::validity_of_chain(chain);
    let tls_session = TlsSession { setup, fingerprints, presented, since: Instant::now() };
    Connection::open(stream, encoding, low_water, Some(tls_session)).await
}

#[cfg(test)]
mod tests;
