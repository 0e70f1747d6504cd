//! Makes the TLS configuration of one connection out of certificate files.
//!
//! The files are read each time, so that a rotated certificate counts from the next connection on.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::ScrapeError;
use crate::members::{Credentials, FileRef, KeyPair};

/// A bundle of all public authorities has some 250 KiB.
const MAX_PEM_BYTES: u64 = 4 << 20;

/// Reads the files and returns what a connection needs.
///
/// # Errors
///
/// When a file cannot be used, or there is nobody to trust.
pub fn client_config(credentials: &Credentials) -> Result<ClientConfig, ScrapeError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(credentials, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ScrapeError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((pair, chain)) = client_certificate(&credentials.client)? else {
        return Ok(builder.with_no_client_auth());
    };
    let bytes = read("the key file", &pair.key)?;
    let key =
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| unusable("the key file", &pair.key, error))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| unusable("the key file", &pair.key, error))
}

/// Picks the first pair whose certificate a client may present, which a server's need not be.
///
/// Without one we present none, and etcd says whether it minds. A certificate that cannot be read is an error only
/// if there is no other to take its place.
pub(super) fn client_certificate(
    pairs: &[KeyPair],
) -> Result<Option<(&KeyPair, Vec<CertificateDer<'static>>)>, ScrapeError> {
    let mut failure = None;
    for pair in pairs {
        match certificates("the certificate file", &pair.certificate) {
            Ok(chain) if chain.first().is_some_and(is_for_clients) => return Ok(Some((pair, chain))),
            Ok(_) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(None), Err)
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

fn verifier(credentials: &Credentials, provider: &Arc<CryptoProvider>) -> Result<Verifier, ScrapeError> {
    let mut verifier = Verifier {
        provider: provider.clone(),
        insecure: credentials.insecure_skip_verify,
        inner: None,
        own: None,
    };
    if verifier.insecure {
        return Ok(verifier);
    }
    let mut roots = RootCertStore::empty();
    for file in &credentials.authorities {
        for certificate in certificates("the CA file", file)? {
            roots.add(certificate).map_err(|error| unusable("the CA file", file, error))?;
        }
    }
    if let Some(file) = &credentials.server_certificate {
        verifier.own = certificates("etcd's certificate file", file)?.into_iter().next();
    }
    if !roots.is_empty() {
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        verifier.inner = Some(built.map_err(|error| ScrapeError::Tls(TlsError::General(error.to_string())))?);
    }
    if verifier.inner.is_none() && verifier.own.is_none() {
        return Err(ScrapeError::NoAuthority);
    }
    Ok(verifier)
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
    file.read(MAX_PEM_BYTES).map_err(|error| unusable(what, file, error))
}

pub(super) fn unusable(
    what: &'static str,
    file: &FileRef,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ScrapeError {
    ScrapeError::Credentials { what, path: file.path.clone(), source: source.into() }
}

/// Trusts what an authority vouches for, and the very certificate that etcd was told to serve.
///
/// The latter is often self-signed, marked as an authority, or made for names other than the loopback address. We
/// read it from the file of the process we look at, so whoever proves to hold its key is that etcd.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    insecure: bool,
    inner: Option<Arc<WebPkiServerVerifier>>,
    own: Option<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
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
        if self.own.as_ref() == Some(end_entity) {
            check_validity(end_entity, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.inner {
            Some(inner) => {
                inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
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
