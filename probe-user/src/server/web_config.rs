//! Reads the web configuration: TLS, passwords and headers of the probe's own endpoint, in one file of the format that
//! Prometheus' exporters share (exporter-toolkit 0.17, docs/web-configuration.md).
//!
//! What cannot be honoured is refused, never left out: whoever wrote it relies on it. An error names the key and no value, for
//! the file holds keys and hashes. docs/web.md tells operators where this differs from exporter-toolkit.

mod yaml_section;
mod tls_section;

use std::{collections::BTreeMap, path::Path, time::Duration};

use axum::http::{HeaderName, HeaderValue};
use serde_json::Value;

pub use tls_section::{ClientAuth, Pem, TlsConfig};
use yaml_section::Section;

/// What is wrong with a web configuration, as one sentence that names the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(String);

impl Wrong {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// The highest cost of a password's hash; each step doubles the time, and this takes four seconds.
pub const MAX_COST: u32 = 16;

/// What a web configuration says.
#[derive(Clone, Debug)]
pub struct WebConfig {
    /// None serves plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Whether HTTP/2 is offered over TLS.
    pub http2: bool,
    /// What is added to every answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Hashes of passwords by user; none lets everybody in.
    pub users: BTreeMap<String, String>,
    pub rate_limit: Option<RateLimit>,
}

/// How often requests are answered, all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub interval: Duration,
    pub burst: u32,
}

/// The headers that may be set, as exporter-toolkit has them, with the values that they may have; any, if none is listed.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

impl WebConfig {
    /// Reads a configuration whose relative paths start at `directory`. Looks at no other file.
    ///
    /// # Errors
    /// When it is not YAML, has an unknown key, or asks for what cannot be done.
    pub fn parse(yaml: &str, directory: &Path) -> Result<Self, Wrong> {
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

fn document(yaml: &str) -> Result<Value, Wrong> {
    if yaml.trim().is_empty() {
        return Ok(Value::Null);
    }
    let document: Result<Option<Value>, _> = serde_saphyr::from_str(yaml);
    document.map(Option::unwrap_or_default).map_err(|error| {
        // The parser's own sentence may show the text that it stopped at, and that may be a key.
        let what = match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { .. } => "a key is given twice",
            serde_saphyr::Error::MultipleDocuments { .. } => "it has more than one document",
            _ => "it is no YAML",
        };
        let place = error.location().filter(|place| place.line() > 0);
        Wrong::new(place.map_or_else(|| what.to_owned(), |place| format!("line {}: {what}", place.line())))
    })
}

fn headers(mut section: Section) -> Result<Vec<(HeaderName, HeaderValue)>, Wrong> {
    let mut headers = Vec::new();
    for (name, allowed) in HEADERS {
        let Some(text) = section.text(name)? else { continue };
        if !allowed.is_empty() && !allowed.contains(&text.as_str()) {
            return Err(section.wrong(name, &format!("has to be {}", allowed.join(" or "))));
        }
        let value = HeaderValue::from_str(&text);
        let value = value.map_err(|_| section.wrong(name, "has a character that no header can have"))?;
        let name = HeaderName::from_bytes(name.as_bytes()).expect("names of headers are letters and dashes");
        headers.push((name, value));
    }
    section.end()?;
    Ok(headers)
}

fn users(mut section: Section) -> Result<BTreeMap<String, String>, Wrong> {
    let mut users = BTreeMap::new();
    for name in section.keys() {
        let hash = section.text(&name)?.unwrap_or_default();
        let wrong = |why: &str| section.wrong(&name, why);
        if name.contains(':') {
            return Err(wrong("cannot be a user: basic authentication ends the name at the first colon"));
        }
        let parts: bcrypt::HashParts = hash.parse().map_err(|_| {
            wrong("is no bcrypt hash; `htpasswd -nBC 10 USER` asks for a password and prints one")
        })?;
        if parts.get_cost() > MAX_COST {
            return Err(wrong(&format!("takes too long to check: its cost is above {MAX_COST}")));
        }
        users.insert(name, hash);
    }
    Ok(users)
}

fn rate_limit(mut section: Section) -> Result<Option<RateLimit>, Wrong> {
    let interval = section.text("interval")?.filter(|text| text != "0");
    let burst = section.text("burst")?;
    let interval = interval.map(|text| humantime::parse_duration(&text)).transpose();
    let interval =
        interval.map_err(|_| section.wrong("interval", "is no duration such as `1s` or `500ms`"))?;
    let burst: Option<u32> = burst
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| section.wrong("burst", "is no whole number"))?;
    let limit = match interval.filter(|interval| !interval.is_zero()) {
        None => None,
        Some(interval) => {
            let burst = burst.filter(|burst| *burst > 0);
            let burst =
                burst.ok_or_else(|| section.wrong("burst", "has to be 1 at least: 0 answers nobody"))?;
            Some(RateLimit { interval, burst })
        }
    };
    section.end()?;
    Ok(limit)
}

#[cfg(test)]
mod tests;
