//! Changes to the disks of a running machine, each undone on drop.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use probe_tests::machine::command;
use probe_tests::machine::vm::DMSETUP;
use rustix::fs::{major, minor};

use crate::machine::{DELAY, Machine};

/// The disk of the fast ext4 file system.
pub const EXT4_DEVICE: &str = "/dev/vda";

/// The disk below the one that can be slowed down.
const SLOW_DEVICE: &str = "vdc";

/// The delays of the slow disk.
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

/// Returns the device number in the notation of cgroup limits, such as `254:0`.
pub fn numbers(device: &str) -> anyhow::Result<String> {
    let device = fs::metadata(device).with_context(|| format!("cannot find {device}"))?.rdev();
    Ok(format!("{}:{}", major(device), minor(device)))
}

/// A slow disk with other delays, until this is dropped.
#[must_use]
pub struct Delayed {
    table: String,
    cache: PathBuf,
}

/// Sets these delays, and gives the disk a cache that must be flushed.
pub fn delay(delays: Delays) -> anyhow::Result<Delayed> {
    let delayed = Delayed {
        table: command::run(DMSETUP, &["table", "slow"])?,
        cache: format!("/sys/block/{SLOW_DEVICE}/cache_type").into(),
    };
    // Without a cache the kernel flushes nothing. Device mapper checks this when it loads its table.
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
            eprintln!("cannot reset the slow disk to {DELAY:?}: {error:#}");
        }
    }
}

/// A disk with the shortest queue that the kernel allows, until this is dropped.
#[must_use]
pub struct Queue {
    requests: PathBuf,
    before: String,
}

impl Queue {
    /// Shortens it to 4 requests, the minimum (`BLKDEV_MIN_RQ`, block/blk.h).
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
