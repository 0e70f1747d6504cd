//! Keeps the paths of keys out of every answer.
//!
//! The log and the terminal name the file that cannot be used, for whoever can mend it. A stranger would learn from the same
//! sentence where the keys to the cluster are, so it is looked for in whatever goes out, whichever handler made it.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

/// What stands in the place of a path.
const WITHHELD: &str = "(a path withheld)";

/// Knows the paths of all keys that the probe reads.
#[derive(Clone)]
pub struct Secrets(Arc<dyn Fn() -> BTreeSet<String> + Send + Sync>);

impl Secrets {
    /// Takes what returns the paths, in all [`spellings`], each time that something goes out.
    pub fn new(paths: impl Fn() -> BTreeSet<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(paths))
    }

    /// Returns an answer without the path of any key.
    pub async fn withhold(&self, response: Response) -> Response {
        let (mut parts, body) = response.into_parts();
        // Handlers make whole bodies, so this takes them as they are.
        let Ok(text) = to_bytes(body, usize::MAX).await else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let text = match without(&text, &(self.0)()) {
            None => text,
            Some(shorter) => {
                parts.headers.remove(header::CONTENT_LENGTH);
                Bytes::from(shorter)
            }
        };
        Response::from_parts(parts, Body::from(text))
    }
}

/// Returns a path as errors and as JSON have it.
pub fn spellings(path: &Path) -> [String; 2] {
    let plain = path.display().to_string();
    let escaped = serde_json::to_string(&plain).unwrap_or_default();
    [escaped.trim_matches('"').to_owned(), plain]
}

/// Returns the text with each of the paths replaced, or none if it has none of them.
fn without(text: &[u8], paths: &BTreeSet<String>) -> Option<Vec<u8>> {
    let mut changed: Option<Vec<u8>> = None;
    // The longest first: one may be the beginning of another.
    let mut paths: Vec<_> = paths.iter().filter(|path| path.len() > 1).collect();
    paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in paths {
        let text = changed.as_deref().unwrap_or(text);
        if let Some(replaced) = replaced(text, path.as_bytes()) {
            changed = Some(replaced);
        }
    }
    changed
}

/// Replaces a path where it stands by itself, and is not part of a longer one.
fn replaced(text: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let goes_on =
        |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"/_-".contains(byte));
    let mut out = Vec::new();
    let mut taken = 0;
    for at in memchr::memmem::find_iter(text, path) {
        let end = at + path.len();
        if !goes_on(at.checked_sub(1).and_then(|before| text.get(before))) && !goes_on(text.get(end)) {
            out.extend_from_slice(&text[taken..at]);
            out.extend_from_slice(WITHHELD.as_bytes());
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
    fn paths_are_replaced_where_they_stand_by_themselves() {
        let paths: BTreeSet<String> =
            ["/pki/a.key", "/pki/a.key.old", "/k", "/"].into_iter().map(str::to_owned).collect();
        let cases = [
            ("cannot use `/pki/a.key`: no", Some("cannot use `(a path withheld)`: no"), "in a sentence"),
            ("\"/pki/a.key\"", Some("\"(a path withheld)\""), "in JSON"),
            ("/pki/a.key", Some("(a path withheld)"), "nothing else"),
            ("/pki/a.key /pki/a.key", Some("(a path withheld) (a path withheld)"), "twice"),
            ("/pki/a.key.old.", Some("(a path withheld)."), "the longer one, at the end of a sentence"),
            ("/pki/a.keys and /var/pki/a.key", None, "parts of other paths"),
            ("/kubepods /k/x x/k", None, "a short one, which is in many"),
            ("/k", Some("(a path withheld)"), "a short one by itself"),
            ("/", None, "the root is no key"),
            ("", None, "nothing"),
        ];
        for (text, expected, why) in cases {
            let replaced = without(text.as_bytes(), &paths);
            assert_eq!(replaced.as_deref(), expected.map(str::as_bytes), "{why}");
        }
    }
}
