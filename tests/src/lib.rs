//! The harness of the integration tests and the demo: real etcd processes, real file systems, real load.
//!
//! Everything here blocks and undoes itself on drop: a test that panics leaves no process, mount or loop
//! device behind. Asynchronous code is confined to [`machine::http`], [`etcd::grpc`] and [`etcd::load`],
//! which run it on threads of their own, so nothing here may be called from within a runtime.

#![expect(clippy::missing_errors_doc, reason = "every error is a sentence in the output of the failed test")]

pub mod machine;

pub mod etcd;
pub mod probe;
pub mod observability;

#[cfg(feature = "harness")]
pub mod faults;
