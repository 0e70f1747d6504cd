//! The system packages that builds, demo and tests need, recognised by what they bring.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::apt;
use crate::process::{capture, find};

/// A program, and the package that has it.
const PROGRAMS: [(&str, &str); 11] = [
    ("cc", "gcc"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mount", "mount"),
    ("losetup", "mount"),
    ("fsfreeze", "util-linux"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("git", "git"),
];

/// Installs what is missing, `more` included, with one call of apt-get.
pub fn setup(more: &[String]) -> Result<()> {
    let mut missing: Vec<String> = more.to_vec();
    missing.extend(
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, name)| (*name).into()),
    );
    if !has_static_libc() {
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
fn has_static_libc() -> bool {
    capture(Command::new("cc").arg("-print-file-name=libc.a")).is_ok_and(|path| path.starts_with('/'))
}
