//! Passes the path of the kernel programs to the crate. Another compiler builds them: `cargo xtask build`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const OVERRIDE: &str = "ETCD_DISK_PROBE_EBPF_OBJECT";

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed={OVERRIDE}");
    let object = env::var_os(OVERRIDE)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/probe"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let Ok(object) = object.canonicalize() else {
        eprintln!("cannot find the kernel programs in {}; run `cargo xtask build`", object.display());
        return ExitCode::FAILURE;
    };
    println!("cargo:rustc-env=PROBE_EBPF_OBJECT={}", object.display());
    ExitCode::SUCCESS
}
