//! Makes the TLS configuration of one connection out of certificate files.
//!
//! The files are read each time, so that a rotated certificate counts from the next connection on.

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

use super::error::{Asked, ScrapeError};
use crate::discovery::{Credentials, Endpoint, FileRef, KeyPair};

/// A bundle of all public authorities has some 250 KiB.
const MAX_PEM_BYTES: u64 = 4 << 20;

/// What TLS on one connection takes.
#[derive(Clone, Debug)]
pub struct Setup {
    pub config: Arc<ClientConfig>,
    /// The name that is sent, and that the certificate has to be valid for.
    pub name: ServerName<'static>,
    presenter: Arc<Presenter>,
}

/// Shows our certificate to whoever asks, and remembers that somebody did.
#[derive(Debug)]
struct Presenter {
    key: Option<Arc<CertifiedKey>>,
    path: Option<PathBuf>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

impl Setup {
    /// Reads the files and returns what a connection needs.
    ///
    /// # Errors
    ///
    /// When a file cannot be used, or there is nobody to trust.
    pub fn read(endpoint: &Endpoint) -> Result<Self, ScrapeError> {
        let credentials = &endpoint.credentials;
        let provider = Arc::new(algorithms::provider());
        let name = credentials.server_name.as_ref().unwrap_or(&endpoint.host);
        let name = ServerName::try_from(name.clone())
            .map_err(|error| ScrapeError::Dns(std::io::Error::other(error)))?;
        let verifier = verify::verifier(credentials, &provider)?;
        let presenter = Arc::new(presenter(credentials, &provider)?);
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ScrapeError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(presenter.clone());
        // No ALPN: etcd offers h2 alone (`NextProtos`, client/pkg/transport/listener.go), and speaks HTTP/1.1 to whoever asks
        // for nothing.
        Ok(Self { config: Arc::new(config), name, presenter })
    }

    /// Returns whether the server has asked for a client certificate so far.
    pub(super) fn asked(&self) -> Asked {
        match (self.presenter.asked.load(Ordering::Relaxed), &self.presenter.key) {
            (false, _) => Asked::No,
            (true, None) => Asked::InVain,
            (true, Some(_)) => Asked::AndShown,
        }
    }

    /// Returns the file of the certificate that we show.
    pub(super) fn shown(&self) -> Option<&PathBuf> {
        self.presenter.path.as_ref()
    }
}

/// Returns whether a text can be the name of a server: a DNS name or an address.
pub fn is_server_name(text: &str) -> bool {
    ServerName::try_from(text).is_ok()
}

fn presenter(credentials: &Credentials, provider: &CryptoProvider) -> Result<Presenter, ScrapeError> {
    const WHAT: &str = "the key file";
    let Some((pair, chain)) = client_certificate(&credentials.client, &credentials.authorities)? else {
        return Ok(Presenter { key: None, path: None, asked: AtomicBool::new(false) });
    };
    let bytes = read(WHAT, &pair.key)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unusable(WHAT, &pair.key, error))?;
    let key =
        CertifiedKey::from_der(chain, key, provider).map_err(|error| unusable(WHAT, &pair.key, error))?;
    Ok(Presenter {
        key: Some(Arc::new(key)),
        path: Some(pair.certificate.path.clone()),
        asked: AtomicBool::new(false),
    })
}

/// Picks the first pair whose certificate a client may present, which a server's need not be: of those that an authority of
/// etcd's has issued, if there is one. What lies beside etcd's certificate may be somebody else's.
///
/// Without one we present none, and etcd says whether it minds. A certificate that cannot be read is an error only
/// if there is no other to take its place.
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
    // Whoever cannot be read is missed by the verifier, which says so.
    let read = authorities.iter().flat_map(|file| certificates("the CA file", file).unwrap_or_default());
    let subjects: Vec<_> = read.filter_map(|authority| Some(names(&authority)?.0)).collect();
    let issued = |(_, chain): &(_, Vec<CertificateDer<'static>>)| {
        chain.iter().filter_map(names).any(|(_, issuer)| subjects.contains(&issuer))
    };
    let place = usable.iter().position(issued).unwrap_or(0);
    match failure {
        Some(error) if usable.is_empty() => Err(error),
        _ => Ok(usable.into_iter().nth(place)),
    }
}

/// Returns the subject and the issuer of a certificate, as they are encoded there.
fn names(certificate: &CertificateDer<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some((certificate.subject().as_raw().to_vec(), certificate.issuer().as_raw().to_vec()))
}

/// A certificate that does not say what it is for is for anything (RFC 5280, 4.2.1.12).
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
        Ok(found) if found.is_empty() => Err(unusable(what, file, "it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(unusable(what, file, error)),
    }
}

fn read(what: &'static str, file: &FileRef) -> Result<Vec<u8>, ScrapeError> {
    file.read(MAX_PEM_BYTES).map_err(|error| match file.seen_by {
        // Its files went with it.
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
