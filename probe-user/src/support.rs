//! Helpers without domain knowledge, for all modules: log format, allocator settings, TLS signature
//! algorithms.

pub mod allocator;
pub mod logging;
pub mod tls_signatures;

#[cfg(test)]
pub(crate) mod fixture;
