//! Builds the TLS configuration of one connection from certificate files.
//!
//! The files are read for every connection, so that a rotated certificate applies to the next connection.

mod algorithms;
mod verify;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustls::{
    ClientConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::{ClientAuth, ScrapeError};
use crate::discovery::{Credentials, Endpoint, FileRef, KeyPair};

/// A bundle of all public authorities has some 250 KiB.
const MAX_PEM_BYTES: u64 = 4 << 20;

/// TLS configuration of one connection.
#[derive(Clone, Debug)]
pub struct TlsSetup {
    pub config: Arc<ClientConfig>,
    /// The name that is sent, and for which the certificate must be valid.
    pub name: ServerName<'static>,
    resolver: Arc<ClientCertResolver>,
}

/// Presents the client certificate on request, and records that the server requested one.
#[derive(Debug)]
struct ClientCertResolver {
    key: Option<Arc<CertifiedKey>>,
    path: Option<PathBuf>,
    requested: AtomicBool,
}

impl ResolvesClientCert for ClientCertResolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

impl TlsSetup {
    /// Reads the files and returns the configuration.
    ///
    /// # Errors
    ///
    /// When a file cannot be used, or there is no trusted authority.
    pub fn read(endpoint: &Endpoint) -> Result<Self, ScrapeError> {
        let credentials = &endpoint.credentials;
        let provider = Arc::new(algorithms::provider());
        let name = credentials.server_name.as_ref().unwrap_or(&endpoint.host);
        let name = ServerName::try_from(name.clone())
            .map_err(|error| ScrapeError::Dns(std::io::Error::other(error)))?;
        let verifier = verify::verifier(credentials, &provider)?;
        let resolver = Arc::new(resolver(credentials, &provider)?);
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ScrapeError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(resolver.clone());
        // No ALPN: etcd offers only h2 (`NextProtos`, client/pkg/transport/listener.go), and speaks HTTP/1.1
        // to clients that offer no protocol.
        Ok(Self { config: Arc::new(config), name, resolver })
    }

    /// Returns whether the server has requested a client certificate so far.
    pub(super) fn client_auth(&self) -> ClientAuth {
        match (self.resolver.requested.load(Ordering::Relaxed), &self.resolver.key) {
            (false, _) => ClientAuth::NotRequested,
            (true, None) => ClientAuth::Missing,
            (true, Some(_)) => ClientAuth::Presented,
        }
    }

    /// Returns the file of the client certificate.
    pub(super) fn presented(&self) -> Option<&PathBuf> {
        self.resolver.path.as_ref()
    }
}

/// Returns whether a text is a valid server name: a DNS name or an address.
pub fn is_server_name(text: &str) -> bool {
    ServerName::try_from(text).is_ok()
}

fn resolver(credentials: &Credentials, provider: &CryptoProvider) -> Result<ClientCertResolver, ScrapeError> {
    const WHAT: &str = "the key file";
    let Some((pair, chain)) = client_certificate(&credentials.client, &credentials.authorities)? else {
        return Ok(ClientCertResolver { key: None, path: None, requested: AtomicBool::new(false) });
    };
    let bytes = read(WHAT, &pair.key)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unusable(WHAT, &pair.key, error))?;
    let key =
        CertifiedKey::from_der(chain, key, provider).map_err(|error| unusable(WHAT, &pair.key, error))?;
    Ok(ClientCertResolver {
        key: Some(Arc::new(key)),
        path: Some(pair.certificate.path.clone()),
        requested: AtomicBool::new(false),
    })
}

/// Selects the first pair whose certificate may be presented by a client, which does not hold for every
/// server certificate. Prefers pairs issued by an authority that etcd trusts: a file next to etcd's
/// certificate may belong to another program.
///
/// Without a suitable pair no certificate is presented, and etcd decides whether to accept the connection. A
/// certificate that cannot be read is an error only if no other pair is usable.
pub(super) fn client_certificate<'a>(
    pairs: &'a [KeyPair],
    authorities: &[FileRef],
) -> Result<Option<(&'a KeyPair, Vec<CertificateDer<'static>>)>, ScrapeError> {
    let (mut usable, mut failure) = (Vec::new(), None);
    for pair in pairs {
        match certificates("the certificate file", &pair.certificate) {
            Ok(chain) if chain.first().is_some_and(is_for_clients) => usable.push((pair, chain)),
            Ok(_) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    // The verifier reports an authority that cannot be read.
    let read = authorities.iter().flat_map(|file| certificates("the CA file", file).unwrap_or_default());
    let subjects: Vec<_> = read.filter_map(|authority| Some(names(&authority)?.0)).collect();
    let issued = |(_, chain): &(_, Vec<CertificateDer<'static>>)| {
        chain.iter().filter_map(names).any(|(_, issuer)| subjects.contains(&issuer))
    };
    let index = usable.iter().position(issued).unwrap_or(0);
    match failure {
        Some(error) if usable.is_empty() => Err(error),
        _ => Ok(usable.into_iter().nth(index)),
    }
}

/// Returns the subject and the issuer of a certificate, as encoded in it.
fn names(certificate: &CertificateDer<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some((certificate.subject().as_raw().to_vec(), certificate.issuer().as_raw().to_vec()))
}

/// Returns whether a client may present the certificate. Without an extended key usage, every use is allowed
/// (RFC 5280, 4.2.1.12).
fn is_for_clients(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => usage.value.client_auth || usage.value.any,
        Ok(None) => true,
        Err(_) => false,
    }
}

pub(super) fn certificates(
    what: &'static str,
    file: &FileRef,
) -> Result<Vec<CertificateDer<'static>>, ScrapeError> {
    let bytes = read(what, file)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match parsed {
        Ok(found) if found.is_empty() => Err(unusable(what, file, "it contains no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(what, file, error)),
    }
}

fn read(what: &'static str, file: &FileRef) -> Result<Vec<u8>, ScrapeError> {
    file.read(MAX_PEM_BYTES).map_err(|error| match file.root_of {
        // The files are inaccessible after the process has ended.
        Some(process) if !process.is_alive() => ScrapeError::Ended,
        _ => unusable(what, file, error),
    })
}

pub(super) fn unusable(
    what: &'static str,
    file: &FileRef,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ScrapeError {
    ScrapeError::Credentials { what, path: file.path.clone(), source: source.into() }
}
