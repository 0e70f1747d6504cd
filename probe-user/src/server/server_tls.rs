//! Builds the rustls configuration from `tls_server_config`: reads the files, and verifies client
//! certificates.

use std::{fs::File, io::Read, net::IpAddr, path::Path, sync::Arc};

use rustls::{
    DistinguishedName, Error as TlsError, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    web_config::{ClientAuthType, Pem, TlsConfig},
    web_error::WebError,
};

/// Limit of a file. A bundle of all public authorities has about 250 KiB.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads certificates and keys, and returns the configuration for handshakes.
///
/// # Errors
/// If a file cannot be read, or its content is invalid.
pub fn server_config(config: &TlsConfig, http2: bool) -> Result<ServerConfig, WebError> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: config.cipher_suites.clone(),
        kx_groups: config.curves.clone(),
        ..ring::default_provider()
    });
    let chain = certificates("cert", &config.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&content("key", &config.key)?);
    // The error must not disclose details of a key.
    let key = key.map_err(|_| invalid("key", &config.key, "contains no private key"))?;
    let verifier = client_verifier(config, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&config.versions);
    let builder = builder.map_err(|error| WebError::Invalid(format!("`tls_server_config`: {error}")))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|error| match error {
        TlsError::InconsistentKeys(_) => invalid("key", &config.key, "belongs to another certificate"),
        error => invalid("cert", &config.certificate, &format!("cannot be used: {error}")),
    })?;
    server.ignore_client_order = config.prefer_server_cipher_suites;
    let protocols: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(server)
}

fn certificates(name: &str, pem: &Pem) -> Result<Vec<CertificateDer<'static>>, WebError> {
    let content = content(name, pem)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match parsed {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(invalid(name, pem, "contains no certificate")),
    }
}

fn content(name: &str, pem: &Pem) -> Result<Vec<u8>, WebError> {
    match pem {
        Pem::Inline(text) => Ok(text.clone().into_bytes()),
        Pem::File(path) => read(path).map_err(|error| WebError::Unreadable {
            what: format!(" of `tls_server_config.{name}_file`"),
            path: path.clone(),
            error,
        }),
    }
}

/// Reads a file of at most [`MAX_FILE_BYTES`]; a larger file is an error.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(content)
}

fn invalid(name: &str, pem: &Pem, what: &str) -> WebError {
    WebError::Invalid(match pem {
        Pem::Inline(_) => format!("`tls_server_config.{name}` {what}"),
        Pem::File(path) => format!("`{}` of `tls_server_config.{name}_file` {what}", path.display()),
    })
}

/// Returns the verifier of client certificates; none if clients are not requested to present one.
fn client_verifier(
    config: &TlsConfig,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<ClientVerifier>, WebError> {
    if config.client_auth == ClientAuthType::NoClientCert {
        return Ok(None);
    }
    let mut inner = None;
    if let Some(pem) = config.client_ca.as_ref().filter(|_| config.client_auth.verifies()) {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("client_ca", pem)? {
            roots
                .add(certificate)
                .map_err(|error| invalid("client_ca", pem, &format!("cannot be used: {error}")))?;
        }
        let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let error = |error| invalid("client_ca", pem, &format!("cannot be used: {error}"));
        inner = Some(built.map_err(error)?);
    }
    Ok(Some(ClientVerifier {
        mandatory: matches!(
            config.client_auth,
            ClientAuthType::RequireAnyClientCert | ClientAuthType::RequireAndVerifyClientCert
        ),
        inner,
        allowed_sans: config.client_allowed_sans.clone(),
        provider: provider.clone(),
    }))
}

/// Verifies a client's certificate; without `inner` it accepts any certificate whose key the client
/// possesses.
#[derive(Debug)]
struct ClientVerifier {
    mandatory: bool,
    inner: Option<Arc<dyn ClientCertVerifier>>,
    allowed_sans: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.as_ref().map_or(&[], |inner| inner.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        if let Some(inner) = &self.inner {
            inner.verify_client_cert(end_entity, intermediates, now)?;
        }
        if !self.allowed_sans.is_empty()
            && !names_of(end_entity).iter().any(|name| self.allowed_sans.contains(name))
        {
            return Err(rustls::CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    crate::support::tls_signatures::signatures_by_provider!();
}

/// Returns the names in a certificate that exporter-toolkit compares: DNS names, mail and IP addresses, URIs.
fn names_of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
