//! Tests against simulated histories of an etcd process.

mod simulated_history;
mod crosscheck_properties;

pub(super) use simulated_history::observations;
