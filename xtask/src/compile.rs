//! Builds the kernel programs, and the daemon with them inside.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::{capture, cargo, clean, run};
use crate::setup::Toolchain;

/// Where `probe-user/build.rs` finds the kernel programs.
const OBJECT: &str = "target/ebpf/probe";

/// What people, the demo and the tests run.
pub const BINARY: &str = "target/release/etcd-disk-probe";

pub fn all(toolchain: &Toolchain) -> Result<()> {
    ebpf(toolchain)?;
    let host = host()?;
    // A flag for the named target leaves build scripts and macros alone, which cannot be static.
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", host.to_uppercase().replace('-', "_"));
    let mut build = cargo();
    build
        .args([
            "build",
            "--release",
            "--package",
            "probe-user",
            "--bin",
            "etcd-disk-probe",
            "--target",
            &host,
        ])
        .env(flags, "-C target-feature=+crt-static");
    run(&mut build)?;
    copy_if_changed(&format!("target/{host}/release/etcd-disk-probe"), BINARY)
}

/// Builds the kernel programs in a target directory of their own: their flags and compiler
/// would otherwise invalidate the host's build, and the host's theirs.
pub fn ebpf(toolchain: &Toolchain) -> Result<()> {
    let mut build = toolchain.cargo();
    build
        .args(["build", "--release", "--package", "probe-ebpf", "--features", "kernel", "--bin", "probe"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir", "target/ebpf"])
        // aya reads the types of maps and programs from BTF, which the linker makes of debug information.
        .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf");
    run(&mut build)?;
    copy_if_changed("target/ebpf/bpfel-unknown-none/release/probe", OBJECT)
}

/// Returns the triple of the machine that builds.
fn host() -> Result<String> {
    let about = capture(clean("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("cannot tell the host of rustc")?.to_owned())
}

/// Keeps the time of an unchanged file, so that nothing is built again because of it.
///
/// The new one is renamed into place: the old may be running.
fn copy_if_changed(from: &str, to: &str) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {from}"))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(directory) = Path::new(to).parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let partial = format!("{to}.partial");
    fs::copy(from, &partial)
        .and_then(|_| fs::rename(&partial, to))
        .with_context(|| format!("cannot copy {from} to {to}"))
}
