//! What every module may use and no module is about: log format, allocator, signature algorithms of TLS.

pub mod logging;
pub mod allocator;
pub mod tls_signatures;

#[cfg(test)]
pub(crate) mod fixture;
