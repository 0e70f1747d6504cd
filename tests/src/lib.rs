//! What the integration tests and the demo share: real etcds, real file systems, real load.
//!
//! Everything here blocks and undoes itself on drop: a test that panics leaves no process, mount or loop device
//! behind. Asynchronous code is confined to [`http`], [`grpc`] and [`load`], which run it on threads of their own, so none
//! of this may be called from within a runtime.

#![expect(clippy::missing_errors_doc, reason = "every error is a sentence for whoever reads the failed test")]

pub mod needs;
pub mod stop;

pub mod command;
pub mod process;
pub mod scratch;

pub mod cgroup;

pub mod certs;
pub mod grpc;
pub mod http;
pub mod caller;
pub mod metrics;

pub mod settings;

pub mod etcd;
pub mod podman;
pub mod container;
pub mod image;
pub mod bill;
pub mod pod;

pub mod load;

pub mod probe;

pub mod programs;

pub mod prometheus;
pub mod promql;
pub mod grafana;
pub mod examples;
pub mod rules;
pub mod alertmanager;

pub mod python;

pub mod chart;

pub mod server;

pub mod cluster;

pub mod exposition;

pub mod hostile;

pub mod crosscheck;
pub mod agreement;

pub mod blinding;

pub mod neighbours;

pub mod least;

pub mod faults;

pub mod finding;

pub mod vm;
