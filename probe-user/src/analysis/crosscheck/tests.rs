//! Tests against simulated histories of an etcd process.

mod simulated_history;
mod crosscheck_properties;
