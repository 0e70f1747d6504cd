//! One kept connection to one etcd.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::HOST,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{
    AllowList,
    connect::{self, Connected, Connecting},
    error::ScrapeError,
    text::Scrape,
};
use crate::{members::Endpoint, privileges::Entrance};

/// A hundred times what etcd serves.
const MAX_BODY_BYTES: usize = 16 << 20;

/// How long the task of a broken connection may take to say why it broke.
const DRIVER_ENDS_WITHIN: Duration = Duration::from_millis(100);

/// Asks one etcd for its metrics, over a connection that is kept.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<Endpoint>,
    /// The one that is asked first: it answered last time, or it is its turn.
    current: usize,
    timeout: Duration,
    entrance: Entrance,
    /// What is passed on of the answer.
    allowed: Arc<AllowList>,
    connection: Option<Connection>,
    /// A connection in the making that outlived its scrape; no second one is started beside it.
    connecting: Option<Connecting>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    /// Returns what ended the connection, which a request that came too late does not know.
    async fn why_broken(&mut self) -> Option<ScrapeError> {
        match timeout(DRIVER_ENDS_WITHIN, &mut self.driver).await {
            Ok(Ok(Err(error))) => Some(broken(error)),
            _ => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// Makes a client of the endpoints of one etcd; a scrape may take as long as `timeout`.
    pub fn new(endpoints: Vec<Endpoint>, timeout: Duration) -> Self {
        Self {
            endpoints,
            current: 0,
            timeout,
            entrance: Entrance::default(),
            allowed: Arc::default(),
            connection: None,
            connecting: None,
        }
    }

    /// Has connections to other network namespaces made by a thread that may enter them.
    #[must_use]
    pub fn through(mut self, entrance: Entrance) -> Self {
        self.entrance = entrance;
        self
    }

    /// Has these families passed on, which by default are none.
    #[must_use]
    pub fn passing_on(mut self, allowed: Arc<AllowList>) -> Self {
        self.allowed = allowed;
        self
    }

    /// Returns the endpoint that the next scrape asks first: after a success, the one that answered.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.endpoints.get(self.current)
    }

    /// Asks for etcd's metrics once: the endpoints in turn, until one answers or time is up.
    ///
    /// # Errors
    ///
    /// Why the endpoint asked first gave no metrics.
    pub async fn scrape(&mut self) -> Result<Scrape, ScrapeError> {
        let deadline = Instant::now() + self.timeout;
        let mut failure = None;
        for _ in 0..self.endpoints.len() {
            let outcome = timeout_at(deadline, self.try_scrape()).await;
            let error = match outcome {
                Ok(Ok(scrape)) => return Ok(scrape),
                Ok(Err(error)) => error,
                Err(_) => ScrapeError::Timeout(self.timeout),
            };
            // Also cuts a request that is still under way: its late answer must not be taken for the next one's.
            self.connection = None;
            let late = matches!(error, ScrapeError::Timeout(_));
            failure = failure.or(Some(error));
            // A connection in the making belongs to this endpoint, so it stays this one's turn.
            if self.connecting.is_none() {
                self.current = (self.current + 1) % self.endpoints.len();
            }
            if late {
                break;
            }
        }
        Err(failure.unwrap_or(ScrapeError::NoEndpoint))
    }

    async fn try_scrape(&mut self) -> Result<Scrape, ScrapeError> {
        let endpoint = self.endpoints.get(self.current).ok_or(ScrapeError::NoEndpoint)?.clone();
        if let Some(connection) = &mut self.connection {
            // etcd may have closed it meanwhile, which only shows when it is used.
            match ask(connection, &endpoint, &self.allowed).await {
                Err(ScrapeError::Broken(_)) => self.connection = None,
                outcome => return outcome,
            }
        }
        let connection = self.connect(&endpoint).await?;
        let connection = self.connection.insert(connection);
        match ask(connection, &endpoint, &self.allowed).await {
            Err(ScrapeError::Broken(error)) => {
                Err(connection.why_broken().await.unwrap_or(ScrapeError::Broken(error)))
            }
            outcome => outcome,
        }
    }

    async fn connect(&mut self, endpoint: &Endpoint) -> Result<Connection, ScrapeError> {
        let connecting = match &mut self.connecting {
            Some(connecting) => connecting,
            none => none.insert(connect::start(endpoint, self.timeout, &self.entrance)?),
        };
        let outcome = connecting.await;
        self.connecting = None;
        let Connected { stream, tls } = outcome.map_err(|error| ScrapeError::Broken(error.into()))??;
        let stream = tokio::net::TcpStream::from_std(stream).map_err(ScrapeError::Connect)?;
        let Some(tls) = tls else { return open(stream).await };
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|error| ScrapeError::Dns(std::io::Error::other(error)))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await;
        open(stream.map_err(|error| ScrapeError::from_connection(error.into()))?).await
    }
}

async fn open(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Connection, ScrapeError> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    Ok(Connection { sender, driver: tokio::spawn(connection) })
}

async fn ask(
    connection: &mut Connection,
    endpoint: &Endpoint,
    allowed: &AllowList,
) -> Result<Scrape, ScrapeError> {
    connection.sender.ready().await.map_err(broken)?;
    let request = Request::get("/metrics")
        .header(HOST, endpoint.authority())
        .body(Empty::new())
        .map_err(|error| ScrapeError::Broken(error.into()))?;
    let response = connection.sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(ScrapeError::Status(status.as_u16()));
    }
    Scrape::parse(&read(response.into_body()).await?, allowed)
}

async fn read(body: Incoming) -> Result<Bytes, ScrapeError> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ScrapeError::TooLarge(MAX_BODY_BYTES)),
        Err(error) => Err(ScrapeError::from_connection(error)),
    }
}

fn broken(error: hyper::Error) -> ScrapeError {
    ScrapeError::from_connection(error.into())
}

#[cfg(test)]
mod tests;
