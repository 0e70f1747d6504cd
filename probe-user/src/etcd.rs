//! Asks an etcd for its own metrics.
//!
//! What comes back is judged before it is used: a body that is not etcd's is an error with a reason, never a zero.
pub mod certificate;
pub mod credential_files;
pub mod client;
mod dial;
pub mod error;
pub mod scrape_text;
pub mod client_tls;

pub use client::Client;
pub use error::{Failure, ScrapeError};
pub use scrape_text::{Histogram, Scrape};
