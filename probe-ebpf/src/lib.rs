//! Types and arithmetic that the kernel programs and the daemon share.
//!
//! The kernel writes these bytes and the daemon reads them, so every type is `repr(C)`, `Copy` and free of
//! padding. This crate contains only logic that the kernel runs; in a library, the host can test it.
//!
//! Latencies are nanoseconds of `CLOCK_MONOTONIC`; their names end in `_ns`.
#![no_std]

pub mod commit;
pub mod file_name;
pub mod histogram;
pub mod io;
pub mod miss;
pub mod offsets;
pub mod process_names;
pub mod series;
pub mod state;
