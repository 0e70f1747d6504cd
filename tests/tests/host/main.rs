//! Every test that runs on this host, in one binary: it is linked once.
//!
//! Tests share one kernel, one disk and the mounts of the machine, so they run one after the other: `--test-threads=1`, as
//! `cargo xtask test` passes it. No test changes the process that it runs in (environment, working directory, credentials,
//! limits, namespaces, signal handlers); it changes those of its children. A test that cannot do without gets a binary of
//! its own, such as `histogram`, which is itself the process that the probe measures.

mod harness;

mod exact;
mod placement;
mod layouts;
mod verdict;
mod blind;

mod fetch;
mod refusals;
mod rotation;
mod hostile;
mod reexport;

mod hooks;
mod privileges;
mod cost;

mod doctor;
mod service;
mod http_access;
mod notify;

mod rules;
mod alerting;
mod dashboard;

mod image;
mod chart;
