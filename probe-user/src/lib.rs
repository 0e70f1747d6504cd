//! The daemon of etcd-disk-probe, as a library that its binary and its tests share.
//!
//! In the order of the flow: `kernel` counts, `latency` is what it counted.

pub mod kernel;
pub mod latency;
