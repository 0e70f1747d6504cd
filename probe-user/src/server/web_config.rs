//! Parses the web configuration: TLS, passwords and headers of the probe's own endpoint, in the file format
//! that Prometheus' exporters share (exporter-toolkit 0.17, docs/web-configuration.md).
//!
//! A setting that cannot be applied is rejected, never ignored: the operator relies on it. An error names the
//! key and no value, because the file contains keys and hashes. docs/web.md lists the differences from
//! exporter-toolkit.

mod yaml_section;
mod tls_section;

use std::{collections::BTreeMap, path::Path, time::Duration};

use axum::http::{HeaderName, HeaderValue};
use serde_json::Value;

pub use tls_section::{ClientAuthType, Pem, TlsConfig};
use yaml_section::Section;

/// Error of a web configuration: one sentence that names the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidWebConfig(String);

impl InvalidWebConfig {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// The highest cost of a bcrypt hash. Each step doubles the time; 16 takes four seconds.
pub const MAX_COST: u32 = 16;

/// A web configuration.
#[derive(Clone, Debug)]
pub struct WebConfig {
    /// None serves plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Whether HTTP/2 is offered over TLS.
    pub http2: bool,
    /// Headers that are added to every response.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Hashes of passwords by user; if empty, every client has access.
    pub users: BTreeMap<String, String>,
    pub rate_limit: Option<RateLimit>,
}

/// Rate limit for all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub interval: Duration,
    pub burst: u32,
}

/// The headers that may be set, as in exporter-toolkit, with their allowed values; an empty list allows every
/// value.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

impl WebConfig {
    /// Parses a configuration with paths relative to `directory`. Opens no other file.
    ///
    /// # Errors
    /// When it is not YAML, has an unknown key, or a setting that is not supported.
    pub fn parse(yaml: &str, directory: &Path) -> Result<Self, InvalidWebConfig> {
        let mut root = Section::new("", document(yaml)?)?;
        let tls = tls_section::parse(root.section("tls_server_config")?, directory)?;
        let mut http = root.section("http_server_config")?;
        let http2 = http.flag("http2")?.unwrap_or(true);
        let headers = headers(http.section("headers")?)?;
        http.end()?;
        let users = users(root.section("basic_auth_users")?)?;
        let rate_limit = rate_limit(root.section("rate_limit")?)?;
        root.end()?;
        Ok(Self { tls, http2, headers, users, rate_limit })
    }
}

fn document(yaml: &str) -> Result<Value, InvalidWebConfig> {
    if yaml.trim().is_empty() {
        return Ok(Value::Null);
    }
    let document: Result<Option<Value>, _> = serde_saphyr::from_str(yaml);
    document.map(Option::unwrap_or_default).map_err(|error| {
        // The parser's own message may quote the text at the error, which may be a private key.
        let what = match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { .. } => "duplicate key",
            serde_saphyr::Error::MultipleDocuments { .. } => "it has more than one document",
            _ => "it is not YAML",
        };
        let location = error.location().filter(|location| location.line() > 0);
        InvalidWebConfig::new(
            location.map_or_else(|| what.to_owned(), |location| format!("line {}: {what}", location.line())),
        )
    })
}

fn headers(mut section: Section) -> Result<Vec<(HeaderName, HeaderValue)>, InvalidWebConfig> {
    let mut headers = Vec::new();
    for (name, allowed) in HEADERS {
        let Some(text) = section.text(name)? else { continue };
        if !allowed.is_empty() && !allowed.contains(&text.as_str()) {
            return Err(section.invalid(name, &format!("must be {}", allowed.join(" or "))));
        }
        let value = HeaderValue::from_str(&text);
        let value =
            value.map_err(|_| section.invalid(name, "contains a character that is invalid in a header"))?;
        let name = HeaderName::from_bytes(name.as_bytes()).expect("names of headers are letters and dashes");
        headers.push((name, value));
    }
    section.end()?;
    Ok(headers)
}

fn users(mut section: Section) -> Result<BTreeMap<String, String>, InvalidWebConfig> {
    let mut users = BTreeMap::new();
    for name in section.keys() {
        let hash = section.text(&name)?.unwrap_or_default();
        let invalid = |why: &str| section.invalid(&name, why);
        if name.contains(':') {
            return Err(invalid("cannot be a user name: in basic authentication, a colon ends the name"));
        }
        let parts: bcrypt::HashParts = hash
            .parse()
            .map_err(|_| invalid("is not a bcrypt hash; create one with `htpasswd -nBC 10 USER`"))?;
        if parts.get_cost() > MAX_COST {
            return Err(invalid(&format!("takes too long to verify: its cost is above {MAX_COST}")));
        }
        users.insert(name, hash);
    }
    Ok(users)
}

fn rate_limit(mut section: Section) -> Result<Option<RateLimit>, InvalidWebConfig> {
    let interval = section.text("interval")?.filter(|text| text != "0");
    let burst = section.text("burst")?;
    let interval = interval.map(|text| humantime::parse_duration(&text)).transpose();
    let interval =
        interval.map_err(|_| section.invalid("interval", "is not a duration such as `1s` or `500ms`"))?;
    let burst: Option<u32> = burst
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| section.invalid("burst", "is not a whole number"))?;
    let limit = match interval.filter(|interval| !interval.is_zero()) {
        None => None,
        Some(interval) => {
            let burst = burst.filter(|burst| *burst > 0);
            let burst = burst.ok_or_else(|| {
                section.invalid("burst", "must be at least 1: with 0, no request would be answered")
            })?;
            Some(RateLimit { interval, burst })
        }
    };
    section.end()?;
    Ok(limit)
}

#[cfg(test)]
mod tests;
