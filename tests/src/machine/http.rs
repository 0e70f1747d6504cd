//! A small HTTP/1.1 client, plain or over TLS with a client certificate, bounded in time and size.
//!
//! [`Endpoint::get`] and [`Endpoint::post`] block, and each opens a connection.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream as StdTcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustix::thread::LinkNameSpaceType;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::etcd::certs::Pair;

/// The time limit for a connection, including the handshake.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The time limit for one request. A healthy etcd on a slow disk may take seconds for a put.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The size limit for a response; etcd's metrics take 100 kB.
const RESPONSE_LIMIT: usize = 16 << 20;

/// A plain or encrypted connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The address of a server and the way to connect to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    network: Option<PathBuf>,
    /// The value of the `authorization` header.
    authorization: Option<String>,
}

/// Ports that the kernel never assigns on its own: below the default of `net.ipv4.ip_local_port_range`.
const PORTS: Range<u16> = 15_000..32_000;

/// Returns a free address of this host. No two calls return the same one, and the kernel gives its port to no
/// outgoing connection.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let length = PORTS.end - PORTS.start;
    // Other test processes start at another port.
    let first = u16::try_from(std::process::id() % u32::from(length)).unwrap_or_default();
    for _ in 0..length {
        let port = PORTS.start + (first + NEXT.fetch_add(1, Relaxed) % length) % length;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("cannot find a free port")
}

/// The answer of a server.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub body: Bytes,
}

impl Response {
    /// Returns the body of a 200; any other status is an error with the body.
    pub fn text(self) -> anyhow::Result<String> {
        let body = String::from_utf8_lossy(&self.body).into_owned();
        if self.status != 200 {
            bail!("status {}: {}", self.status, body.trim());
        }
        Ok(body)
    }
}

impl Endpoint {
    /// Returns an endpoint that speaks plain HTTP.
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, network: None, authorization: None }
    }

    /// Returns an endpoint that trusts one authority and presents a client certificate.
    pub fn tls(address: SocketAddr, authority: &Path, client: &Pair) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(
            CertificateDer::from_pem_file(authority)
                .with_context(|| format!("cannot read certificate {}", authority.display()))?,
        )?;
        let chain = CertificateDer::pem_file_iter(&client.certificate)
            .and_then(Iterator::collect)
            .with_context(|| format!("cannot read certificate {}", client.certificate.display()))?;
        let key = PrivateKeyDer::from_pem_file(&client.key)
            .with_context(|| format!("cannot read key {}", client.key.display()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .context("cannot use the client certificate")?;
        Ok(Self { address, tls: Some(Arc::new(config)), network: None, authorization: None })
    }

    /// Authenticates each request with a name and a password.
    #[must_use]
    pub fn as_user(mut self, user: &str, password: &str) -> Self {
        let shown = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.authorization = Some(format!("Basic {shown}"));
        self
    }

    /// Connects from within a network namespace, such as `/proc/PID/ns/net`.
    #[must_use]
    pub fn in_network(mut self, namespace: PathBuf) -> Self {
        self.network = Some(namespace);
        self
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address as a URL, as etcd and the probe's flags take it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Returns whether a server listens there: all that can be checked when its certificate has expired.
    pub fn listens(&self) -> bool {
        self.socket().is_ok()
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Response> {
        self.once(Method::GET, path, Bytes::new())
    }

    pub fn post(&self, path: &str, body: String) -> anyhow::Result<Response> {
        self.once(Method::POST, path, body.into())
    }

    fn once(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async { self.connect().await?.send(method, path, body).await });
        answer.with_context(|| format!("cannot fetch {}{path}", self.url()))
    }

    /// Opens a persistent connection. Requires a runtime.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = self.stream(b"http/1.1").await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("cannot speak HTTP")?;
        // The caller that waits for a response on this connection receives its error.
        tokio::spawn(connection);
        let authorization = self.authorization.clone();
        Ok(Connection { sender, host: self.address.to_string(), authorization })
    }

    /// Connects and, over TLS, negotiates a protocol.
    pub(crate) async fn stream(&self, protocol: &[u8]) -> anyhow::Result<Box<dyn Stream>> {
        let socket = self.socket()?;
        socket.set_nonblocking(true)?;
        let socket = TcpStream::from_std(socket)?;
        // A put is one small segment: with Nagle's algorithm every other one would wait for an
        // acknowledgement.
        socket.set_nodelay(true)?;
        let Some(config) = &self.tls else {
            return Ok(Box::new(socket));
        };
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::IpAddress(self.address.ip().into());
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let stream = timeout(CONNECT_LIMIT, handshake).await.context("cannot finish TLS in time")?;
        Ok(Box::new(stream.context("cannot agree on TLS")?))
    }

    /// Connects the socket; for another network namespace on a separate thread.
    fn socket(&self) -> anyhow::Result<StdTcpStream> {
        let connect = || StdTcpStream::connect_timeout(&self.address, CONNECT_LIMIT);
        let Some(network) = &self.network else {
            return connect().with_context(|| format!("cannot connect to {}", self.address));
        };
        let enter_and_connect = || {
            let namespace =
                File::open(network).with_context(|| format!("cannot open {}", network.display()))?;
            let network_type = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), network_type)
                .with_context(|| format!("cannot enter {}", network.display()))?;
            connect().with_context(|| format!("cannot connect to {} in {}", self.address, network.display()))
        };
        thread::scope(|scope| scope.spawn(enter_and_connect).join().expect("connecting does not panic"))
    }
}

/// An open connection, one request at a time.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: Option<String>,
}

impl Connection {
    /// Sends one request and reads the whole response.
    pub async fn send(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response> {
        let request = Request::builder().method(&method).uri(path).header("host", &self.host);
        // Alertmanager rejects a body without a content type.
        let request =
            if method == Method::POST { request.header("content-type", "application/json") } else { request };
        let request = match &self.authorization {
            Some(shown) => request.header("authorization", shown),
            None => request,
        };
        let request = request.body(Full::new(body))?;
        let exchange = async {
            self.sender.ready().await.context("cannot use a closed connection")?;
            let response = self.sender.send_request(request).await.context("cannot get a response")?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), RESPONSE_LIMIT).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("cannot read the response: {error}"))?.to_bytes();
            Ok(Response { status, body })
        };
        timeout(REQUEST_LIMIT, exchange).await.context("cannot get a response in time")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn one_request_gets_its_response() {
        let cases = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", Ok("hi"), "a plain answer"),
            (
                "HTTP/1.1 503 No\r\ncontent-length: 5\r\n\r\nlater",
                Err("status 503: later"),
                "an error's own text",
            ),
        ];
        for (answer, expected, why) in cases {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = Endpoint::plain(listener.local_addr().unwrap());
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8_lossy(&request[..length]).into_owned()
            });
            let text = endpoint.get("/metrics").unwrap().text().map_err(|error| error.to_string());
            assert_eq!(text.as_deref().map_err(String::as_str), expected, "{why}");
            assert!(server.join().unwrap().starts_with("GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:"), "{why}");
        }
    }

    #[test]
    fn a_refused_connection_is_one_sentence() {
        let free = free_address().unwrap();
        let endpoint = Endpoint::plain(free);
        assert!(!endpoint.listens());
        let error = format!("{:#}", endpoint.get("/").unwrap_err());
        assert!(
            error.starts_with(&format!("cannot fetch http://{free}/: cannot connect to {free}: ")),
            "{error}"
        );
    }
}
