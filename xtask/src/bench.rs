//! Measures what the probe costs.

use anyhow::Result;

use crate::process::run as run_command;
use crate::{compile, setup};

pub fn run(args: &[String]) -> Result<()> {
    let setup = setup::run(setup::Scope::Machine)?;
    compile::ebpf(&setup.toolchain)?;
    let mut bench = compile::for_tests("run")?;
    bench.args(["--package", "probe-tests", "--bin", "bench", "--", "calls"]).args(args);
    run_command(&mut bench)
}
