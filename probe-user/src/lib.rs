//! The daemon of etcd-disk-probe, as a library that its binary and its tests share.
//!
//! In the order of the flow: `config` is what to do, `kernel` counts (with `privileges` for no longer than it
//! takes) and `latency` is what it counted, `causes` names what a blocked thread waits for, `sampler` looks at that while
//! operations are `slow`, `members` are the etcds here, `device`, `cgroups`, `starvation` and `io_limit` tell what each of them
//! runs on and within, and `etcd` asks them for their own figures, `crosscheck` reconciles the two, `monitor` keeps all that
//! over time, `verdict` judges and `report` tells it, `metrics` and `server` publish, `service_manager` is told how it is, `daemon` runs
//! the commands. Beside the
//! flow, `host` is what this machine allows and `doctor` tells what to do about it.

pub mod config;
pub mod kernel;
pub mod privileges;
pub mod latency;
pub mod causes;
pub mod slow;
pub mod sampler;
pub mod members;
pub mod device;
pub mod cgroups;
pub mod starvation;
pub mod io_limit;
mod signatures;
pub mod etcd;
pub mod crosscheck;
pub mod monitor;
pub mod verdict;
pub mod report;
pub mod metrics;
pub mod server;
pub mod host;
pub mod doctor;
pub mod service_manager;
pub mod daemon;
pub mod exit;
pub mod allocator;
pub mod logging;

#[cfg(test)]
mod fixture;
