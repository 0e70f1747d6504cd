//! Until when certificates are valid. Keys are not read here.

use rustls::pki_types::CertificateDer;
use x509_parser::{
    error::X509Error,
    nom,
    prelude::{FromDer, X509Certificate},
};

use super::{ScrapeError, tls};
use crate::members::{Credentials, FileRef};

/// When one certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before_s: i64,
    pub not_after_s: i64,
}

/// Returns the validity of each certificate in a PEM file, in its order: of a chain, the holder's own comes first.
///
/// # Errors
///
/// When the file cannot be read, or holds no certificate.
pub fn validities(file: &FileRef) -> Result<Vec<Validity>, ScrapeError> {
    const WHAT: &str = "the certificate file";
    let certificates = tls::certificates(WHAT, file)?;
    certificates.iter().map(|der| validity(der).map_err(|error| tls::unusable(WHAT, file, error))).collect()
}

/// Returns the certificate that would be presented to etcd as ours; `None` if there is none that may be.
pub fn presented(credentials: &Credentials) -> Option<&FileRef> {
    let (pair, _) = tls::client_certificate(&credentials.client).ok().flatten()?;
    Some(&pair.certificate)
}

/// Returns when every certificate of a chain is valid; none if there is none that can be read.
pub fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Validity> {
    let all = chain.iter().filter_map(|der| validity(der).ok());
    all.reduce(|one, other| Validity {
        not_before_s: one.not_before_s.max(other.not_before_s),
        not_after_s: one.not_after_s.min(other.not_after_s),
    })
}

fn validity(der: &CertificateDer<'_>) -> Result<Validity, nom::Err<X509Error>> {
    let (_, certificate) = X509Certificate::from_der(der)?;
    let validity = certificate.validity();
    Ok(Validity {
        not_before_s: validity.not_before.timestamp(),
        not_after_s: validity.not_after.timestamp(),
    })
}
