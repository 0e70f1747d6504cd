//! Measures what the probe costs, beside its peers.

use std::env;

use anyhow::Result;

use crate::compile;
use crate::process::{clean, run as run_command};
use crate::setup::{self, Toolchain};

/// The programs that the probe's are measured against.
const SHAPES: &str = "target/ebpf/shapes";

/// Builds all there is to measure, gets the peers that can be had, and passes the arguments on.
pub fn run(args: &[String]) -> Result<()> {
    // A machine to boot needs a kernel and an emulator.
    let in_machine = args.iter().any(|word| word == "--vm" || word.starts_with("--vm="));
    let setup = setup::run(if in_machine { setup::Scope::Everything } else { setup::Scope::Machine })?;
    setup::peers();
    compile::all(&setup.toolchain)?;
    shapes(&setup.toolchain)?;
    let mut build = compile::for_tests("build")?;
    build.args(["--workspace", "--bins"]);
    run_command(&mut build)?;
    // Not through `cargo run`, whose variables and whose own process would be part of what is measured.
    let mut bench = clean(format!("target/{}/tests/bench", compile::host()?));
    bench
        .args(args)
        .env("ETCD_DISK_PROBE_BIN", env::current_dir()?.join(compile::BINARY))
        .env("ETCD_DISK_PROBE_CACHE", setup.cache_directory())
        .env("ETCD_DISK_PROBE_SHAPES", env::current_dir()?.join(SHAPES));
    run_command(&mut bench)
}

/// Builds these as the probe's own programs are built, but for the debug information, which is not parsed at any start that counts.
fn shapes(toolchain: &Toolchain) -> Result<()> {
    let mut flags =
        ["-C", "debuginfo=2", "-C", "link-arg=--btf", "-C", "target-cpu=v2"].map(str::to_owned).to_vec();
    flags.extend(compile::nameless(&toolchain.sysroot()?)?);
    let mut build = toolchain.cargo();
    build
        .args([
            "build",
            "--profile",
            "ebpf",
            "--package",
            "probe-ebpf",
            "--features",
            "kernel",
            "--bin",
            "shapes",
        ])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir", "target/ebpf"])
        .args(["--config", &compile::rustflags("bpfel-unknown-none", &flags)]);
    run_command(&mut build)?;
    compile::copy_if_changed("target/ebpf/bpfel-unknown-none/ebpf/shapes", SHAPES)
}
