//! The daemon.

pub mod members;

pub mod etcd;
