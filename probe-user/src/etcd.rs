//! Scrapes etcd's own metrics.
//!
//! A response is validated before it is used: a body that is not etcd's is an error with a reason, never a
//! zero.
pub mod certificate;
pub mod credential_files;
pub mod client;
mod dial;
pub mod error;
pub mod scrape_text;
pub mod client_tls;

pub use client::Client;
pub use error::{ScrapeError, ScrapeFailure};
pub use scrape_text::{EtcdHistogram, Scrape};
