//! The gate: every check and every test, also after a failure, and one line at the end that counts them.

use std::path::Path;

use anyhow::Result;

use crate::{checks, compile, setup, steps};

/// Runs all of them, or only the tests whose names contain `only`, this many times.
pub fn run(root: &Path, only: Option<&str>, times: u32) -> Result<()> {
    let setup = setup::run(setup::Scope::Everything)?;
    compile::for_gate(&setup)?;

    let mut outcomes = if only.is_none() { checks::before_tests() } else { Vec::new() };
    outcomes.push(checks::unit(times, only));
    // These share one kernel and one disk, so they run one after the other.
    outcomes.push(steps::tests("integration", times, || {
        let mut integration = compile::for_tests("test")?;
        integration
            .args(["--workspace", "--no-fail-fast", "--test", "*", "--", "--test-threads=1"])
            .args(only)
            // Cases of the matrix that the gate leaves to a series run when they are named.
            .args(only.map(|_| "--include-ignored"))
            .env("ETCD_DISK_PROBE_BIN", root.join(compile::BINARY))
            .env("ETCD_DISK_PROBE_CACHE", setup.cache_directory());
        Ok(integration)
    }));
    steps::report(&mut outcomes, only.is_some())
}
