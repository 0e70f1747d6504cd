//! Redaction of the paths of private keys in every response.
//!
//! The log and the terminal name the file that cannot be used, for the operator. In a response, the same
//! sentence would disclose to any client where the cluster's keys are, so the paths are replaced in every
//! response of every handler.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

/// Replacement for a path.
const REPLACEMENT: &str = "(path redacted)";

/// Redacts the paths of all private keys that the probe reads.
#[derive(Clone)]
pub struct Redactor(Arc<dyn Fn() -> BTreeSet<String> + Send + Sync>);

impl Redactor {
    /// Takes a function that returns the paths in all [`encodings`]; it is called for every response.
    pub fn new(paths: impl Fn() -> BTreeSet<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(paths))
    }

    /// Returns the response without the path of any private key.
    pub async fn redact(&self, response: Response) -> Response {
        let (mut parts, body) = response.into_parts();
        // Handlers return complete bodies, so they need no limit here.
        let Ok(text) = to_bytes(body, usize::MAX).await else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let text = match redact_paths(&text, &(self.0)()) {
            None => text,
            Some(shorter) => {
                parts.headers.remove(header::CONTENT_LENGTH);
                Bytes::from(shorter)
            }
        };
        Response::from_parts(parts, Body::from(text))
    }
}

/// Returns the encodings of a path: in JSON, and in plain text.
pub fn encodings(path: &Path) -> [String; 2] {
    let plain = path.display().to_string();
    let escaped = serde_json::to_string(&plain).unwrap_or_default();
    [escaped.trim_matches('"').to_owned(), plain]
}

/// Returns the text with all paths replaced, or none if it contains no path.
fn redact_paths(text: &[u8], paths: &BTreeSet<String>) -> Option<Vec<u8>> {
    let mut changed: Option<Vec<u8>> = None;
    // The longest first: a path may be the prefix of another.
    let mut paths: Vec<_> = paths.iter().filter(|path| path.len() > 1).collect();
    paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in paths {
        let text = changed.as_deref().unwrap_or(text);
        if let Some(replaced) = replace_path(text, path.as_bytes()) {
            changed = Some(replaced);
        }
    }
    changed
}

/// Replaces a path unless it is part of a longer one; returns none if nothing was replaced.
fn replace_path(text: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let continues =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"/_-".contains(byte));
    let mut out = Vec::new();
    let mut taken = 0;
    for at in memchr::memmem::find_iter(text, path) {
        let end = at + path.len();
        if !continues(at.checked_sub(1).and_then(|before| text.get(before))) && !continues(text.get(end)) {
            out.extend_from_slice(&text[taken..at]);
            out.extend_from_slice(REPLACEMENT.as_bytes());
            taken = end;
        }
    }
    (taken > 0).then(|| {
        out.extend_from_slice(&text[taken..]);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_replaced_unless_part_of_longer_ones() {
        let paths: BTreeSet<String> =
            ["/pki/a.key", "/pki/a.key.old", "/k", "/"].into_iter().map(str::to_owned).collect();
        let cases = [
            ("cannot use `/pki/a.key`: no", Some("cannot use `(path redacted)`: no"), "in a sentence"),
            ("\"/pki/a.key\"", Some("\"(path redacted)\""), "in JSON"),
            ("/pki/a.key", Some("(path redacted)"), "only the path"),
            ("/pki/a.key /pki/a.key", Some("(path redacted) (path redacted)"), "twice"),
            ("/pki/a.key.old.", Some("(path redacted)."), "the longer one, at the end of a sentence"),
            ("/pki/a.keys and /var/pki/a.key", None, "parts of other paths"),
            ("/kubepods /k/x x/k", None, "a short one, part of many others"),
            ("/k", Some("(path redacted)"), "a short one by itself"),
            ("/", None, "the root is not a key"),
            ("", None, "nothing"),
        ];
        for (text, expected, why) in cases {
            let replaced = redact_paths(text.as_bytes(), &paths);
            assert_eq!(replaced.as_deref(), expected.map(str::as_bytes), "{why}");
        }
    }
}
