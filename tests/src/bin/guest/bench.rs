//! Runs the benchmark, which is a separate program.

use std::env;
use std::process::Command;

use anyhow::{Context, bail};
use probe_tests::machine::vm::case::FileSystem;
use probe_tests::machine::vm::{BENCH, BENCH_WORDS, SHAPES};

use crate::machine::Machine;

/// Returns the benchmark's arguments from the kernel's command line, if it has any.
pub fn words() -> Option<String> {
    env::var(BENCH_WORDS).ok()
}

pub fn run(words: &str) -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    let status = Command::new(BENCH)
        .args(words.split(','))
        // There is no `mount` and no `losetup`, but a file system in memory, and disks.
        .args(["--memory", "/tmp", "--disk"])
        .arg(machine.disk(FileSystem::Ext4))
        .arg("--directory")
        .arg(machine.disk(FileSystem::Ext4))
        .env("ETCD_DISK_PROBE_SHAPES", SHAPES)
        .env_remove(BENCH_WORDS)
        .status()
        .context("cannot start the benchmark")?;
    if !status.success() {
        bail!("the benchmark ended with {status}");
    }
    Ok(())
}
