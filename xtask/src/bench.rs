//! Measures the cost of the probe next to that of other tracers.

use std::env;

use anyhow::Result;

use crate::compile;
use crate::process::{clean, run as run_command};
use crate::setup;

/// The kernel programs that the benchmark compares with the probe's.
const SHAPES: &str = "target/ebpf/shapes";

/// Builds the probe and the benchmark, installs the other tracers that are available, and runs the benchmark.
pub fn run(args: &[String]) -> Result<()> {
    // A virtual machine needs a kernel and an emulator.
    let in_machine = args.iter().any(|word| word == "--vm" || word.starts_with("--vm="));
    let setup = setup::run(if in_machine { setup::Scope::Everything } else { setup::Scope::Machine })?;
    setup::peers();
    compile::all(&setup.toolchain)?;
    compile::copy_if_changed(&compile::programs(&setup.toolchain, "shapes")?, SHAPES)?;
    let mut build = compile::for_tests("build")?;
    build.args(["--workspace", "--bins"]);
    run_command(&mut build)?;
    // Not through `cargo run`: its variables and its own process would be part of the measurement.
    let mut bench = clean(format!("target/{}/tests/bench", compile::host()?));
    bench
        .args(args)
        .env("ETCD_DISK_PROBE_BIN", env::current_dir()?.join(compile::BINARY))
        .env("ETCD_DISK_PROBE_CACHE", setup.cache_directory())
        .env("ETCD_DISK_PROBE_SHAPES", env::current_dir()?.join(SHAPES));
    run_command(&mut bench)
}
