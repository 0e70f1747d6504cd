//! The host: the requirements of a test, and the processes, cgroups, file systems, containers, connections
//! and virtual machines that it uses.

pub mod requirements;

pub mod cancel;
pub mod command;
pub mod process;
pub mod cgroup;
pub mod scratch;

pub mod http;
pub mod raw_http;

pub mod podman;
pub mod python;

#[cfg(feature = "harness")]
pub mod vm;
