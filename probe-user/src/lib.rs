//! The daemon of etcd-disk-probe, as a library that its binary and its tests share.

pub mod kernel;
pub mod latency;
pub mod crosscheck;
