//! Asks an etcd for its own metrics.
//!
//! What comes back is judged before it is used: a body that is not etcd's is an error with a reason, never a zero.

pub mod allow_list;
pub mod certificate;
pub mod client;
mod connect;
pub mod error;
pub mod exposition;
pub mod passed_on;
pub mod stamps;
pub mod text;
pub mod tls;

pub use allow_list::AllowList;
pub use certificate::Validity;
pub use client::Client;
pub use error::{Failure, Reason, ScrapeError};
pub use passed_on::PassedOn;
pub use text::{Histogram, Scrape};
