//! A client that sends exact bytes, plain or over TLS, with or without a certificate.
//!
//! Use [`crate::machine::http`] for ordinary requests, and this client to test how a server handles unusual
//! ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::etcd::certs::Pair;

/// The time limit for everything: longer than the longest limit of the probe.
const PATIENCE: Duration = Duration::from_secs(20);

/// The server to connect to, and the client's identity.
#[derive(Clone, Debug)]
pub struct RawClient {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    /// The name that the server's certificate must be valid for.
    name: ServerName<'static>,
}

/// The answer, read until the connection was closed.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// The status line and the headers, in lower case.
    pub head: String,
    pub body: String,
}

/// A connection, plain or encrypted.
pub trait RawStream: Read + Write {}

impl<S: Read + Write> RawStream for S {}

impl RawClient {
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, name: ServerName::IpAddress(address.ip().into()) }
    }

    /// Trusts one authority, and presents a certificate if it has one.
    pub fn tls(address: SocketAddr, authority: &Path, client: Option<&Pair>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).context("cannot read the authority")?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain =
                    CertificateDer::pem_file_iter(&pair.certificate)?.collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&pair.key)?)?
            }
        };
        Ok(Self { address, tls: Some(Arc::new(config)), name: ServerName::IpAddress(address.ip().into()) })
    }

    /// Verifies this name and not the address.
    pub fn named(mut self, name: &str) -> anyhow::Result<Self> {
        self.name = ServerName::try_from(name.to_owned()).context("cannot parse the server name")?;
        Ok(self)
    }

    /// Returns the protocol that the server selects from those offered, if any.
    pub fn protocol(&self, offered: &[&[u8]]) -> anyhow::Result<Option<Vec<u8>>> {
        let mut config =
            ClientConfig::clone(self.tls.as_ref().context("plain connections agree on nothing")?);
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let mut tls = ClientConnection::new(Arc::new(config), self.name.clone())?;
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).context("cannot agree on TLS")?;
        }
        Ok(tls.alpn_protocol().map(<[u8]>::to_vec))
    }

    /// Opens a connection; over TLS the handshake takes place with the first byte sent.
    pub fn connect(&self) -> anyhow::Result<Box<dyn RawStream>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let client = ClientConnection::new(tls.clone(), self.name.clone())?;
        Ok(Box::new(StreamOwned::new(client, stream)))
    }

    /// Sends these bytes and reads until the connection is closed.
    pub fn send(&self, request: &str) -> anyhow::Result<Answer> {
        let mut line = self.connect()?;
        line.write_all(request.as_bytes()).context("cannot send a request")?;
        line.flush().context("cannot send a request")?;
        let mut answer = Vec::new();
        match line.read_to_end(&mut answer) {
            // A client that sends too much receives an answer and is then disconnected.
            Err(error) if answer.is_empty() => return Err(error).context("cannot get an answer"),
            _ => {}
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").context("cannot find the end of the headers")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("cannot find a status in {head}"))?;
        Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
    }

    /// Requests a path with additional headers, each terminated by CR LF.
    pub fn request(&self, method: &str, path: &str, headers: &str) -> anyhow::Result<Answer> {
        self.send(&format!("{method} {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n{headers}\r\n"))
            .with_context(|| format!("cannot {method} {path}"))
    }
}
