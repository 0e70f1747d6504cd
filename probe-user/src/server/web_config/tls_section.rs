//! Parses `tls_server_config`, and rejects the settings that rustls does not support.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{SupportedKxGroup, ring},
    version::{TLS12, TLS13},
};

use super::{InvalidWebConfig, yaml_section::Section};

/// TLS configuration of the server.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub certificate: Pem,
    pub key: Pem,
    pub client_auth: ClientAuthType,
    pub client_ca: Option<Pem>,
    /// A client's certificate must contain one of these names; if empty, any name is accepted.
    pub client_allowed_sans: Vec<String>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// In order of preference.
    pub cipher_suites: Vec<SupportedCipherSuite>,
    pub curves: Vec<&'static dyn SupportedKxGroup>,
    pub prefer_server_cipher_suites: bool,
}

/// Location of a certificate or a key. Its `Debug` shows no content.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    Inline(String),
    File(PathBuf),
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Policy for client certificates; named as in Go's crypto/tls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthType {
    NoClientCert,
    RequestClientCert,
    RequireAnyClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

impl ClientAuthType {
    const ALL: [Self; 5] = [
        Self::NoClientCert,
        Self::RequestClientCert,
        Self::RequireAnyClientCert,
        Self::VerifyClientCertIfGiven,
        Self::RequireAndVerifyClientCert,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoClientCert => "NoClientCert",
            Self::RequestClientCert => "RequestClientCert",
            Self::RequireAnyClientCert => "RequireAnyClientCert",
            Self::VerifyClientCertIfGiven => "VerifyClientCertIfGiven",
            Self::RequireAndVerifyClientCert => "RequireAndVerifyClientCert",
        }
    }

    /// Returns whether a client's certificate must be signed by the authority.
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert)
    }
}

/// Parses the section; returns none if it is absent or empty, which disables TLS.
pub(super) fn parse(mut section: Section, directory: &Path) -> Result<Option<TlsConfig>, InvalidWebConfig> {
    if section.keys().is_empty() {
        return Ok(None);
    }
    let certificate = pem(&mut section, "cert", directory)?;
    let key = pem(&mut section, "key", directory)?;
    let client_ca = pem(&mut section, "client_ca", directory)?;
    let client_auth = client_auth(&mut section)?;
    let client_allowed_sans = section.list("client_allowed_sans")?;
    let versions = versions(&mut section)?;
    let cipher_suites = cipher_suites(&mut section)?;
    let curves = curves(&mut section)?;
    let prefer_server_cipher_suites = section.flag("prefer_server_cipher_suites")?.unwrap_or(true);
    // Unknown keys are reported before missing ones, which may be misspelt.
    section.end()?;
    if client_auth.verifies() && client_ca.is_none() {
        return Err(
            section.invalid("client_ca_file", &format!("is missing: {} requires it", client_auth.as_str()))
        );
    }
    if client_auth == ClientAuthType::NoClientCert && client_ca.is_some() {
        return Err(section.invalid("client_auth_type", "requests no certificate, but client_ca_file is set"));
    }
    if !client_auth.verifies() && !client_allowed_sans.is_empty() {
        let why = "requires a client_auth_type that verifies certificates: an unverified certificate can \
                   contain any name";
        return Err(section.invalid("client_allowed_sans", why));
    }
    let of_versions = |suite: &SupportedCipherSuite| versions.contains(&suite.version());
    let cipher_suites: Vec<_> = cipher_suites.into_iter().filter(of_versions).collect();
    let versions: Vec<_> = versions
        .iter()
        .copied()
        .filter(|version| cipher_suites.iter().any(|suite| suite.version() == *version))
        .collect();
    if versions.is_empty() {
        return Err(section.invalid("cipher_suites", "has none for the versions of TLS that are enabled"));
    }
    let certificate = certificate.ok_or_else(|| section.invalid("cert_file", "is missing, as is `cert`"))?;
    let key = key.ok_or_else(|| section.invalid("key_file", "is missing, as is `key`"))?;
    Ok(Some(TlsConfig {
        certificate,
        key,
        client_auth,
        client_ca,
        client_allowed_sans,
        versions,
        cipher_suites,
        curves,
        prefer_server_cipher_suites,
    }))
}

/// Parses `NAME_file`, or `NAME` with the content itself.
fn pem(section: &mut Section, name: &str, directory: &Path) -> Result<Option<Pem>, InvalidWebConfig> {
    let file_key = format!("{name}_file");
    match (section.text(name)?, section.text(&file_key)?) {
        (Some(_), Some(_)) => Err(section.invalid(&file_key, &format!("and `{name}` exclude each other"))),
        (Some(content), None) => Ok(Some(Pem::Inline(content))),
        (None, Some(path)) => Ok(Some(Pem::File(directory.join(path)))),
        (None, None) => Ok(None),
    }
}

fn client_auth(section: &mut Section) -> Result<ClientAuthType, InvalidWebConfig> {
    let key = "client_auth_type";
    let Some(text) = section.text(key)? else { return Ok(ClientAuthType::NoClientCert) };
    // An older name, which exporter-toolkit still accepts.
    let text = if text == "RequireClientCert" { "RequireAnyClientCert" } else { &text };
    let found = ClientAuthType::ALL.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| {
        let names = ClientAuthType::ALL.map(ClientAuthType::as_str).join(", ");
        section.invalid(key, &format!("must be one of {names}"))
    })
}

fn versions(section: &mut Section) -> Result<Vec<&'static SupportedProtocolVersion>, InvalidWebConfig> {
    let mut version = |key: &str, default: &str| {
        let text = section.text(key)?.unwrap_or_else(|| default.to_owned());
        match text.as_str() {
            "TLS12" => Ok(12),
            "TLS13" => Ok(13),
            "TLS10" | "TLS11" => {
                Err(section.invalid(key, "must be TLS12 or TLS13: older versions are not supported"))
            }
            _ => Err(section.invalid(key, "must be TLS12 or TLS13")),
        }
    };
    let (min, max) = (version("min_version", "TLS12")?, version("max_version", "TLS13")?);
    match (min, max) {
        (12, 12) => Ok(vec![&TLS12]),
        (13, 13) => Ok(vec![&TLS13]),
        (12, 13) => Ok(vec![&TLS13, &TLS12]),
        _ => Err(section.invalid("min_version", "is above `max_version`")),
    }
}

/// Returns the configured suites of TLS 1.2, in that order, and all suites of TLS 1.3, which are not
/// configurable in Go either.
fn cipher_suites(section: &mut Section) -> Result<Vec<SupportedCipherSuite>, InvalidWebConfig> {
    let key = "cipher_suites";
    let names = section.list(key)?;
    let known = ring::ALL_CIPHER_SUITES;
    if names.is_empty() {
        return Ok(known.to_vec());
    }
    let mut suites: Vec<_> = known.iter().copied().filter(|suite| suite.version() == &TLS13).collect();
    for name in names {
        let suite = known.iter().copied().find(|suite| go_name(*suite) == name).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|suite| go_name(*suite)).collect();
            section.invalid(
                key,
                &format!("contains one that is not supported; supported are: {}", names.join(", ")),
            )
        })?;
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    Ok(suites)
}

/// Returns the name of a suite in Go. For TLS 1.3, rustls uses `TLS13_AES_…`, Go and IANA use `TLS_AES_…`.
fn go_name(suite: SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1)
}

fn curves(section: &mut Section) -> Result<Vec<&'static dyn SupportedKxGroup>, InvalidWebConfig> {
    let key = "curve_preferences";
    let names = section.list(key)?;
    if names.is_empty() {
        return Ok(ring::ALL_KX_GROUPS.to_vec());
    }
    let curve = |name: &String| match name.as_str() {
        "X25519" => Ok(ring::kx_group::X25519),
        "CurveP256" => Ok(ring::kx_group::SECP256R1),
        "CurveP384" => Ok(ring::kx_group::SECP384R1),
        _ => Err(section
            .invalid(key, "contains one that is not supported; supported are: X25519, CurveP256, CurveP384")),
    };
    names.iter().map(curve).collect()
}
