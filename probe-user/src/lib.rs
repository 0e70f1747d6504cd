//! The daemon.

pub mod crosscheck;
