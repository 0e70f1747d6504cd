//! One kept connection to one etcd, and a new one before the old one has to go.

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

use connection::{Connection, Secured};
use recv_low_water::LowWater;

use super::credential_files::Fingerprints;
use super::{
    certificate,
    client_tls::Setup,
    dial::{self, Connected, Connecting, Stream},
    error::{Failure, ScrapeError, Stage},
    scrape_text::Scrape,
};
use crate::analysis::{certificate_expiry::Validity, reexport::AllowList, scrape_failure::Reason};
use crate::{discovery::Endpoint, system::privileges::NetnsSpawner};

/// A connection over TLS is made anew after this time: a certificate of a server whose files we do not see is renewed, too.
const RENEWED_EVERY: Duration = Duration::from_hours(1);

/// How long a look at the files may take until the kept connection is used as it is.
const LOOK_LIMIT: Duration = Duration::from_millis(500);

/// Asks one etcd for its metrics, over a connection that is kept.
///
/// Files are looked at before each scrape over TLS. When one has changed, a new connection is made with the new ones; the
/// old one stays until the new one has yielded a scrape, so that a rotation that is only half done loses none.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<Endpoint>,
    /// The one that is asked first: it answered last time, or it is its turn.
    current: usize,
    timeout: Duration,
    entrance: NetnsSpawner,
    /// What is passed on of the answer.
    allowed: Arc<AllowList>,
    connection: Option<Connection>,
    /// A connection in the making that outlived its scrape; no second one is started beside it.
    connecting: Option<Connecting>,
    /// A look at the files that outlived its scrape; likewise.
    looking: Option<oneshot::Receiver<Fingerprints>>,
    /// Why the kept connection could not be replaced, if so; told once.
    not_renewed: Option<Reason>,
}

impl Client {
    /// Makes a client of the endpoints of one etcd; a scrape may take as long as `timeout`.
    pub fn new(endpoints: Vec<Endpoint>, timeout: Duration) -> Self {
        Self {
            endpoints,
            current: 0,
            timeout,
            entrance: NetnsSpawner::default(),
            allowed: Arc::default(),
            connection: None,
            connecting: None,
            looking: None,
            not_renewed: None,
        }
    }

    /// Has connections to other network namespaces made by a thread that may enter them.
    #[must_use]
    pub fn through(mut self, entrance: NetnsSpawner) -> Self {
        self.entrance = entrance;
        self
    }

    /// Has these families passed on, which by default are none.
    #[must_use]
    pub fn reexporting(mut self, allowed: Arc<AllowList>) -> Self {
        self.allowed = allowed;
        self
    }

    /// Returns the endpoint that the next scrape asks first: after a success, the one that answered.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.get(self.current)
    }

    /// Returns the validity of the chain that the server presented on the connection that is kept; none without TLS.
    pub fn presented(&self) -> Option<Validity> {
        self.connection.as_ref()?.secured.as_ref()?.presented
    }

    /// Asks for etcd's metrics once: the endpoints in turn, until one answers or time is up.
    ///
    /// # Errors
    ///
    /// Why the endpoint asked first gave no metrics.
    pub async fn scrape(&mut self) -> Result<Scrape, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut failure = None;
        for _ in 0..self.endpoints.len() {
            let outcome = timeout_at(deadline, self.try_scrape(deadline)).await;
            let error = match outcome {
                Ok(Ok(scrape)) => return Ok(scrape),
                Ok(Err(error)) => error,
                Err(_) => ScrapeError::Timeout(self.timeout),
            };
            // Also cuts a request that is still under way: its late answer must not be taken for the next one's.
            self.connection = None;
            let late = matches!(error, ScrapeError::Timeout(_));
            let endpoint = self.endpoint().map(ToString::to_string);
            failure = failure.or(Some(Failure { endpoint, error }));
            // A connection in the making belongs to this endpoint, so it stays this one's turn.
            if self.connecting.is_none() {
                self.current = (self.current + 1) % self.endpoints.len();
            }
            if late {
                break;
            }
        }
        Err(failure.unwrap_or(Failure { endpoint: None, error: ScrapeError::NoEndpoint }))
    }

    async fn try_scrape(&mut self, deadline: Instant) -> Result<Scrape, ScrapeError> {
        let endpoint = self.endpoint().ok_or(ScrapeError::NoEndpoint)?.clone();
        if self.is_due(&endpoint).await
            && let Some(scrape) = self.try_renew(&endpoint, deadline).await
        {
            return Ok(scrape);
        }
        if let Some(connection) = &mut self.connection {
            // etcd may have closed it meanwhile, which only shows when it is used.
            match connection.get(&endpoint).await.and_then(|body| Scrape::parse(&body, &self.allowed)) {
                Err(error) if error.is_no_answer() => self.connection = None,
                outcome => return outcome,
            }
        }
        self.try_afresh(&endpoint).await
    }

    /// Returns whether the connection that is kept should be replaced.
    async fn is_due(&mut self, endpoint: &Endpoint) -> bool {
        let Some(secured) = self.connection.as_ref().and_then(|kept| kept.secured.as_ref()) else {
            return false;
        };
        if secured.since.elapsed() > RENEWED_EVERY {
            return true;
        }
        let looking = match &mut self.looking {
            Some(looking) => looking,
            none => match Fingerprints::start(&endpoint.credentials) {
                Ok(looking) => none.insert(looking),
                // Without a thread there is no new connection either.
                Err(_) => return false,
            },
        };
        let Ok(outcome) = timeout(LOOK_LIMIT, looking).await else { return false };
        self.looking = None;
        outcome.is_ok_and(|fingerprints| fingerprints != secured.fingerprints)
    }

    /// Scrapes over a new connection, in half of the time that is left; the other half is the old one's.
    async fn try_renew(&mut self, endpoint: &Endpoint, deadline: Instant) -> Option<Scrape> {
        let half = deadline.saturating_duration_since(Instant::now()) / 2;
        let error = match timeout(half, self.try_afresh(endpoint)).await {
            Ok(Ok(scrape)) => {
                self.not_renewed = None;
                info!(%endpoint, "connected anew with the certificates as they are");
                return Some(scrape);
            }
            Ok(Err(error)) => error,
            Err(_) => ScrapeError::Timeout(half),
        };
        let reason = error.reason();
        if self.not_renewed.replace(reason) != Some(reason) {
            let error = crate::support::logging::chain(&error);
            warn!(%endpoint, reason = reason.as_str(), "the new certificates do not work (yet), the old connection serves on: {error}");
        }
        None
    }

    /// Scrapes over a new connection, which is kept if it works.
    async fn try_afresh(&mut self, endpoint: &Endpoint) -> Result<Scrape, ScrapeError> {
        let mut connection = self.connect(endpoint).await?;
        match connection.get(endpoint).await.and_then(|body| Scrape::parse(&body, &self.allowed)) {
            Ok(scrape) => {
                self.connection = Some(connection);
                Ok(scrape)
            }
            Err(error) => Err(connection.why(error).await),
        }
    }

    async fn connect(&mut self, endpoint: &Endpoint) -> Result<Connection, ScrapeError> {
        let connecting = match &mut self.connecting {
            Some(connecting) => connecting,
            none => none.insert(dial::start(endpoint, self.timeout, &self.entrance)?),
        };
        let outcome = connecting.await;
        self.connecting = None;
        let Connected { stream, tls } = outcome.map_err(|error| ScrapeError::Broken(error.into()))??;
        match stream {
            Stream::Tcp(stream) => {
                let stream = TcpStream::from_std(stream).map_err(ScrapeError::Connect)?;
                let encoding = connection::accepted_encoding(&stream);
                let low_water = LowWater::of(&stream);
                secure(stream, encoding, low_water, tls).await
            }
            Stream::Unix(stream) => {
                let stream = UnixStream::from_std(stream).map_err(ScrapeError::Connect)?;
                secure(stream, connection::UNENCODED, LowWater::default(), tls).await
            }
        }
    }
}

/// Agrees on TLS, if there is to be any, and starts to speak HTTP.
async fn secure(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    encoding: &'static str,
    low_water: LowWater,
    tls: Option<(Setup, Fingerprints)>,
) -> Result<Connection, ScrapeError> {
    let Some((setup, fingerprints)) = tls else {
        return Connection::open(stream, encoding, low_water, None).await;
    };
    let stream = TlsConnector::from(setup.config.clone()).connect(setup.name.clone(), stream).await;
    let stream = stream.map_err(|error| {
        let stage = Stage::Handshake { asked: setup.asked() };
        ScrapeError::from_connection(error.into(), stage).showing(setup.shown())
    })?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let presented = certificate::of_chain(chain);
    let secured = Secured { setup, fingerprints, presented, since: Instant::now() };
    Connection::open(stream, encoding, low_water, Some(secured)).await
}

#[cfg(test)]
mod tests;
