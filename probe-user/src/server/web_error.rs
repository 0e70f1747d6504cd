//! Errors of the web configuration.

use std::path::PathBuf;

/// Why a web configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("cannot use the web configuration: {0}")]
    Invalid(String),
    #[error("cannot read `{}`{what}", path.display())]
    Unreadable {
        what: String,
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
}
