//! Validity periods of certificates. Private keys are not read here.

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

/// Returns the validity of each certificate in a PEM file, in file order: in a chain, the leaf comes first.
///
/// # Errors
///
/// When the file cannot be read, or contains no certificate.
pub fn validities(file: &FileRef) -> Result<Vec<Validity>, ScrapeError> {
    const WHAT: &str = "the certificate file";
    let certificates = client_tls::certificates(WHAT, file)?;
    certificates
        .iter()
        .map(|der| validity(der).map_err(|error| client_tls::unusable(WHAT, file, error)))
        .collect()
}

/// The certificate files of one member, whether it is scraped over TLS or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The trusted authorities.
    pub authorities: Vec<FileRef>,
    /// The certificate that etcd serves.
    pub server: Option<FileRef>,
    /// The pairs that the probe may present to etcd, the preferred one first.
    pub client: Vec<KeyPair>,
}

impl CertificateFiles {
    /// Returns the files of a member's client port; none if the member has no TLS at all.
    pub fn of(member: &Member) -> Self {
        let secure = member.endpoints.iter().find(|endpoint| endpoint.scheme == Scheme::Https);
        let server = member.settings.client_tls.cert_file.clone();
        if secure.is_none() && server.is_none() {
            return Self::default();
        }
        // Plain endpoints have the credentials of the client port, too.
        let credentials = secure.or(member.endpoints.first()).map(|endpoint| &endpoint.credentials);
        Self {
            authorities: credentials.map(|all| all.authorities.clone()).unwrap_or_default(),
            server: server.map(|path| FileRef { path, root_of: Some(member.id) }),
            client: credentials.map(|all| all.client.clone()).unwrap_or_default(),
        }
    }

    /// Returns all certificate files, without keys.
    pub fn all(&self) -> impl Iterator<Item = &FileRef> {
        self.authorities.iter().chain(&self.server).chain(self.client.iter().map(|pair| &pair.certificate))
    }

    /// Returns the client certificate that the probe would present to etcd, if one is suitable. Reads the
    /// files.
    pub fn client_certificate(&self) -> Option<&FileRef> {
        let (pair, _) = client_tls::client_certificate(&self.client, &self.authorities).ok().flatten()?;
        Some(&pair.certificate)
    }
}

/// Returns the period in which every certificate of a chain is valid; none if no certificate can be parsed.
pub fn validity_of_chain(chain: &[CertificateDer<'_>]) -> Option<Validity> {
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
