//! Until when certificates are valid. Keys are not read here.

use rustls::pki_types::CertificateDer;
use x509_parser::{
    error::X509Error,
    nom,
    prelude::{FromDer, X509Certificate},
};

use super::{ScrapeError, client_tls};
use crate::{
    analysis::certificate_expiry::Validity,
    discovery::{FileRef, KeyPair, Member, Scheme},
};

/// Returns the validity of each certificate in a PEM file, in its order: of a chain, the holder's own comes first.
///
/// # Errors
///
/// When the file cannot be read, or holds no certificate.
pub fn validities(file: &FileRef) -> Result<Vec<Validity>, ScrapeError> {
    const WHAT: &str = "the certificate file";
    let certificates = client_tls::certificates(WHAT, file)?;
    certificates
        .iter()
        .map(|der| validity(der).map_err(|error| client_tls::unusable(WHAT, file, error)))
        .collect()
}

/// The certificate files of one member, whether it is asked over TLS or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Whom we trust.
    pub authorities: Vec<FileRef>,
    /// What etcd serves.
    pub server: Option<FileRef>,
    /// What we may show to it, the best one first.
    pub client: Vec<KeyPair>,
}

impl Files {
    /// Returns the files of a member's client port; none if it has no TLS at all.
    pub fn of(member: &Member) -> Self {
        let secure = member.endpoints.iter().find(|endpoint| endpoint.scheme == Scheme::Https);
        let server = member.settings.client_tls.cert_file.clone();
        if secure.is_none() && server.is_none() {
            return Self::default();
        }
        // Where all endpoints are plain, each has the credentials of the client port all the same.
        let credentials = secure.or(member.endpoints.first()).map(|endpoint| &endpoint.credentials);
        Self {
            authorities: credentials.map(|all| all.authorities.clone()).unwrap_or_default(),
            server: server.map(|path| FileRef { path, seen_by: Some(member.id) }),
            client: credentials.map(|all| all.client.clone()).unwrap_or_default(),
        }
    }

    /// Returns all files with certificates; no keys.
    pub fn all(&self) -> impl Iterator<Item = &FileRef> {
        self.authorities.iter().chain(&self.server).chain(self.client.iter().map(|pair| &pair.certificate))
    }

    /// Returns the certificate that would be shown to etcd as ours; none if there is none that may be. Reads them.
    pub fn shown(&self) -> Option<&FileRef> {
        let (pair, _) = client_tls::client_certificate(&self.client, &self.authorities).ok().flatten()?;
        Some(&pair.certificate)
    }
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
