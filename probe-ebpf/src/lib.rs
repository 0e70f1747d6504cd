//! Types and arithmetic shared by the kernel programs and the daemon.
//!
//! The kernel writes these bytes and the daemon reads them, so every type is `repr(C)`, `Copy`
//! and free of padding. Logic lives here only if the kernel runs it; here the host can test it.
//!
//! Latencies are nanoseconds of `CLOCK_MONOTONIC`; their names end in `_ns`.
#![no_std]

pub mod request;
pub mod commit;
pub mod histogram;
pub mod layout;
pub mod miss;
pub mod name;
pub mod series;
pub mod state;
