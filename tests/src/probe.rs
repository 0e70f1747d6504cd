//! The program under test: its invocations, its output, its objects in the kernel, its image and its pods.

mod invocation;

pub mod exposition;
#[cfg(feature = "harness")]
pub mod metrics;

#[cfg(feature = "harness")]
pub mod crosscheck;
#[cfg(feature = "harness")]
pub mod assert_exact;
pub mod check_report;

pub mod loaded_programs;
pub mod least_privilege;

pub mod image;
pub mod sbom;
pub mod pod;

pub use invocation::{Finished, Invocation, Probe, Running, binary};
