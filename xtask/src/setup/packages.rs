//! The system packages that builds, demo and tests need, recognised by the programs in them.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Scope, apt, python};
use crate::process::{capture, find};

/// A program, and the package that has it.
type Program = (&'static str, &'static str);

/// For building.
const OF_BUILDS: [Program; 1] = [("cc", "gcc")];

/// For measuring on this machine.
const OF_MACHINE: [Program; 11] = [
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mount", "mount"),
    ("losetup", "mount"),
    ("fsfreeze", "util-linux"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("fio", "fio"),
    ("git", "git"),
];

/// For the tests only: virtual machines, the other architecture, containers.
const OF_TESTS: [Program; 10] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    (AARCH64_LINKER, "gcc-aarch64-linux-gnu"),
    ("dmsetup", "dmsetup"),
    ("readelf", "binutils"),
    ("xz", "xz-utils"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("catatonit", "catatonit"),
    ("valgrind", "valgrind"),
];

/// Compiles and links for aarch64.
pub const AARCH64_LINKER: &str = "aarch64-linux-gnu-gcc";

/// Installs missing packages, `more` included, with one call of apt-get.
pub fn setup(more: &[String], scope: Scope) -> Result<()> {
    let mut missing: Vec<String> = more.to_vec();
    let programs: Vec<&Program> = match scope {
        Scope::Demo => OF_BUILDS.iter().collect(),
        Scope::Machine => OF_BUILDS.iter().chain(&OF_MACHINE).collect(),
        Scope::Everything => OF_BUILDS.iter().chain(&OF_MACHINE).chain(&OF_TESTS).collect(),
    };
    let programs = programs.into_iter();
    missing.extend(programs.filter(|(program, _)| find(program).is_none()).map(|(_, name)| (*name).into()));
    if scope == Scope::Everything && !has_static_libc(AARCH64_LINKER) {
        missing.push("libc6-dev-arm64-cross".to_owned());
    }
    if scope == Scope::Everything && !python::can_make_environments() {
        missing.push(python::PACKAGE.to_owned());
    }
    if !has_static_libc("cc") {
        missing.push("libc6-dev".to_owned());
    }
    if !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        missing.push("ca-certificates".to_owned());
    }
    missing.sort();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: installing {}", missing.join(" "));
    apt::install(&missing)
}

/// The compiler prints an absolute path only for a library that it finds.
fn has_static_libc(compiler: &str) -> bool {
    capture(Command::new(compiler).arg("-print-file-name=libc.a")).is_ok_and(|path| path.starts_with('/'))
}
