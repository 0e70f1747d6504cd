//! Verification of etcd's server certificate.

use std::sync::Arc;

use rustls::{
    CertificateError, Error as TlsError, RootCertStore,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::discovery::Credentials;
use crate::etcd::{client_tls, error::ScrapeError};

pub(super) fn verifier(
    credentials: &Credentials,
    provider: &Arc<CryptoProvider>,
) -> Result<ServerVerifier, ScrapeError> {
    let mut verifier = ServerVerifier {
        provider: provider.clone(),
        insecure: credentials.insecure_skip_verify,
        inner: None,
        own_certificate: None,
        must_match_name: credentials.server_name.is_some(),
    };
    if verifier.insecure {
        return Ok(verifier);
    }
    let mut roots = RootCertStore::empty();
    for file in &credentials.authorities {
        for certificate in client_tls::certificates("the CA file", file)? {
            roots.add(certificate).map_err(|error| client_tls::unusable("the CA file", file, error))?;
        }
    }
    if let Some(file) = &credentials.server_certificate {
        verifier.own_certificate =
            client_tls::certificates("etcd's certificate file", file)?.into_iter().next();
    }
    if !roots.is_empty() {
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        verifier.inner = Some(built.map_err(|error| ScrapeError::Tls(TlsError::General(error.to_string())))?);
    }
    if verifier.inner.is_none() && verifier.own_certificate.is_none() {
        return Err(ScrapeError::NoAuthority);
    }
    Ok(verifier)
}

/// Accepts certificates issued by a trusted authority, and exactly the certificate that etcd is configured to
/// serve.
///
/// The latter is often self-signed, marked as an authority, or issued for names other than the loopback
/// address. It is read from the file of the measured process, so a server that proves possession of its key
/// is that etcd.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    provider: Arc<CryptoProvider>,
    insecure: bool,
    inner: Option<Arc<WebPkiServerVerifier>>,
    own_certificate: Option<CertificateDer<'static>>,
    /// Whether the operator set a server name, which must also be in etcd's own certificate.
    must_match_name: bool,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.insecure {
            return Ok(ServerCertVerified::assertion());
        }
        if self.own_certificate.as_ref() == Some(end_entity) {
            check_validity(end_entity, now)?;
            if self.must_match_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match &self.inner {
            Some(inner) => {
                inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    crate::support::tls_signatures::signatures_by_provider!();
}

fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), TlsError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| TlsError::from(CertificateError::BadEncoding))?;
    let now = now.as_secs().cast_signed();
    let validity = certificate.validity();
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}
