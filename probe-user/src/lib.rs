//! The daemon of etcd-disk-probe, as a library that its binary and its tests share.

pub mod command;
pub mod server;
pub mod output;
pub mod monitor;
pub mod kernel;
pub mod etcd;
pub mod discovery;
pub mod system;
pub mod analysis;
pub mod support;
