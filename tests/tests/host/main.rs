//! All tests that run on this host, in one binary, which is linked once.
//!
//! Tests share one kernel, one disk and the mounts of the machine, so they run in sequence: `cargo xtask
//! test` passes `--test-threads=1`. No test changes the process that it runs in (environment, working
//! directory, credentials, limits, namespaces, signal handlers); a test changes only its child processes. A
//! test that cannot avoid this has a binary of its own, such as `histogram`, whose own process is what the
//! probe measures.

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

mod readme;
