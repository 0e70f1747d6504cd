//! `tls_server_config`: what of it rustls can do, and a sentence for the rest.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{SupportedKxGroup, ring},
    version::{TLS12, TLS13},
};

use super::{Wrong, yaml_section::Section};

/// The server's side of TLS.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub certificate: Pem,
    pub key: Pem,
    pub client_auth: ClientAuth,
    pub client_ca: Option<Pem>,
    /// One of these names has to be in a client's certificate; any, if there are none.
    pub client_allowed_sans: Vec<String>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// In the order in which they are preferred.
    pub cipher_suites: Vec<SupportedCipherSuite>,
    pub curves: Vec<&'static dyn SupportedKxGroup>,
    pub prefer_server_cipher_suites: bool,
}

/// Where a certificate or a key is. Its `Debug` shows no content.
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

/// Whether clients have to show a certificate, and whose; named as in Go's crypto/tls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    NoClientCert,
    RequestClientCert,
    RequireAnyClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

impl ClientAuth {
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

    /// Returns whether an authority has to have signed what a client shows.
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert)
    }
}

/// Returns none if the section is not there, or empty: then there is no TLS.
pub(super) fn parse(mut section: Section, directory: &Path) -> Result<Option<TlsConfig>, Wrong> {
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
    // Before what is missing is named: it may be there, misspelt.
    section.end()?;
    if client_auth.verifies() && client_ca.is_none() {
        return Err(
            section.wrong("client_ca_file", &format!("is missing: {} needs it", client_auth.as_str()))
        );
    }
    if client_auth == ClientAuth::NoClientCert && client_ca.is_some() {
        return Err(
            section.wrong("client_auth_type", "asks for no certificate, and there is a client_ca_file")
        );
    }
    if !client_auth.verifies() && !client_allowed_sans.is_empty() {
        let why = "means nothing unless client_auth_type has certificates verified: anybody can write a name into his own";
        return Err(section.wrong("client_allowed_sans", why));
    }
    let of_versions = |suite: &SupportedCipherSuite| versions.contains(&suite.version());
    let cipher_suites: Vec<_> = cipher_suites.into_iter().filter(of_versions).collect();
    let versions: Vec<_> = versions
        .iter()
        .copied()
        .filter(|version| cipher_suites.iter().any(|suite| suite.version() == *version))
        .collect();
    if versions.is_empty() {
        return Err(section.wrong("cipher_suites", "has none for the versions of TLS that are left"));
    }
    let certificate =
        certificate.ok_or_else(|| section.wrong("cert_file", "is missing, and so is `cert`"))?;
    let key = key.ok_or_else(|| section.wrong("key_file", "is missing, and so is `key`"))?;
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

/// Reads `NAME_file`, or `NAME` with the content itself.
fn pem(section: &mut Section, name: &str, directory: &Path) -> Result<Option<Pem>, Wrong> {
    let file_key = format!("{name}_file");
    match (section.text(name)?, section.text(&file_key)?) {
        (Some(_), Some(_)) => Err(section.wrong(&file_key, &format!("and `{name}` are one too many"))),
        (Some(content), None) => Ok(Some(Pem::Inline(content))),
        (None, Some(path)) => Ok(Some(Pem::File(directory.join(path)))),
        (None, None) => Ok(None),
    }
}

fn client_auth(section: &mut Section) -> Result<ClientAuth, Wrong> {
    let key = "client_auth_type";
    let Some(text) = section.text(key)? else { return Ok(ClientAuth::NoClientCert) };
    // An older name, which exporter-toolkit still takes.
    let text = if text == "RequireClientCert" { "RequireAnyClientCert" } else { &text };
    let found = ClientAuth::ALL.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| {
        let names = ClientAuth::ALL.map(ClientAuth::as_str).join(", ");
        section.wrong(key, &format!("has to be one of {names}"))
    })
}

fn versions(section: &mut Section) -> Result<Vec<&'static SupportedProtocolVersion>, Wrong> {
    let mut version = |key: &str, default: &str| {
        let text = section.text(key)?.unwrap_or_else(|| default.to_owned());
        match text.as_str() {
            "TLS12" => Ok(12),
            "TLS13" => Ok(13),
            "TLS10" | "TLS11" => {
                Err(section.wrong(key, "has to be TLS12 or TLS13: older ones are not spoken"))
            }
            _ => Err(section.wrong(key, "has to be TLS12 or TLS13")),
        }
    };
    let (least, most) = (version("min_version", "TLS12")?, version("max_version", "TLS13")?);
    match (least, most) {
        (12, 12) => Ok(vec![&TLS12]),
        (13, 13) => Ok(vec![&TLS13]),
        (12, 13) => Ok(vec![&TLS13, &TLS12]),
        _ => Err(section.wrong("min_version", "is above `max_version`")),
    }
}

/// Returns the suites of TLS 1.2 that are named, in that order, and all of TLS 1.3, of which Go lets nobody choose either.
fn cipher_suites(section: &mut Section) -> Result<Vec<SupportedCipherSuite>, Wrong> {
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
            section.wrong(key, &format!("has one that is not spoken; these are: {}", names.join(", ")))
        })?;
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    Ok(suites)
}

/// rustls calls those of TLS 1.3 `TLS13_AES_…`, Go and IANA `TLS_AES_…`.
fn go_name(suite: SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1)
}

fn curves(section: &mut Section) -> Result<Vec<&'static dyn SupportedKxGroup>, Wrong> {
    let key = "curve_preferences";
    let names = section.list(key)?;
    if names.is_empty() {
        return Ok(ring::ALL_KX_GROUPS.to_vec());
    }
    let curve = |name: &String| match name.as_str() {
        "X25519" => Ok(ring::kx_group::X25519),
        "CurveP256" => Ok(ring::kx_group::SECP256R1),
        "CurveP384" => Ok(ring::kx_group::SECP384R1),
        _ => Err(section.wrong(key, "has one that is not spoken; these are: X25519, CurveP256, CurveP384")),
    };
    names.iter().map(curve).collect()
}
