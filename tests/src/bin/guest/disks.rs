//! What can be done to the disks of a machine while it runs, each undone on drop.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use probe_tests::machine::command;
use probe_tests::machine::vm::DMSETUP;
use rustix::fs::{major, minor};

use crate::machine::{DELAY, Machine};

/// The disk of the ext4 that is as fast as it can be.
pub const EXT4_DEVICE: &str = "/dev/vda";

/// The disk below the one that can be slowed down.
const SLOW_DEVICE: &str = "vdc";

/// How long the slow disk takes.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// For each read and write.
    pub io: Duration,
    pub flush: Duration,
}

/// Returns a directory on the disk that [`delay`] slows down.
pub fn slow_disk(machine: &Machine) -> anyhow::Result<&Path> {
    machine.slow_disk().context("cannot slow a disk down in this machine")
}

/// Returns the numbers of a device as limits have them, such as `254:0`.
pub fn numbers(device: &str) -> anyhow::Result<String> {
    let device = fs::metadata(device).with_context(|| format!("cannot find {device}"))?.rdev();
    Ok(format!("{}:{}", major(device), minor(device)))
}

/// A slow disk that is slow in its own way, until this is dropped.
#[must_use]
pub struct Delayed {
    table: String,
    cache: PathBuf,
}

/// Has the slow disk take these times, and keep a cache that has to be flushed.
pub fn delay(delays: Delays) -> anyhow::Result<Delayed> {
    let delayed = Delayed {
        table: command::run(DMSETUP, &["table", "slow"])?,
        cache: format!("/sys/block/{SLOW_DEVICE}/cache_type").into(),
    };
    // Without a cache the kernel flushes nothing. Device mapper looks when it gets its table.
    write(&delayed.cache, "write back")?;
    let words: Vec<_> = delayed.table.split_whitespace().collect();
    let sectors = words.get(1).context("cannot read the table of the slow disk")?;
    let (device, io, flush) =
        (format!("/dev/{SLOW_DEVICE}"), delays.io.as_millis(), delays.flush.as_millis());
    reload(&format!("0 {sectors} delay {device} 0 {io} {device} 0 {io} {device} 0 {flush}"))?;
    Ok(delayed)
}

fn reload(table: &str) -> anyhow::Result<()> {
    command::run(DMSETUP, &["reload", "slow", "--table", table])?;
    command::run(DMSETUP, &["resume", "slow", "--noudevsync"])?;
    Ok(())
}

impl Drop for Delayed {
    fn drop(&mut self) {
        let undone = write(&self.cache, "write through").and_then(|()| reload(&self.table));
        if let Err(error) = undone {
            eprintln!("cannot give the slow disk its {DELAY:?} back: {error:#}");
        }
    }
}

/// A disk that takes as few requests at a time as the kernel lets one, until this is dropped.
#[must_use]
pub struct Queue {
    requests: PathBuf,
    before: String,
}

impl Queue {
    /// Shortens it to 4 places, the least that there is (`BLKDEV_MIN_RQ`, block/blk.h).
    pub fn shorten(device: &str) -> anyhow::Result<Self> {
        let queue = Path::new("/sys/block").join(device).join("queue");
        // A scheduler has a queue of its own before the disk's.
        write(&queue.join("scheduler"), "none")?;
        let requests = queue.join("nr_requests");
        let before = fs::read_to_string(&requests)
            .with_context(|| format!("cannot read {}", requests.display()))?
            .trim()
            .to_owned();
        write(&requests, "4")?;
        Ok(Self { requests, before })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Err(error) = write(&self.requests, &self.before) {
            eprintln!("{error:#}");
        }
    }
}

fn write(path: &Path, value: &str) -> anyhow::Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}
