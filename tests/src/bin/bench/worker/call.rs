//! Consecutive calls, timed in batches.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self as std_io, PipeReader, PipeWriter, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use rustix::fs::{OFlags, SeekFrom, fdatasync, seek};
use rustix::{io, process::getppid};

use crate::figures::median;

/// The maximum calls per batch: a pipe holds 64 KiB, and the segment need not grow.
const BATCH: u32 = 4096;

/// The minimum number of batches, so that the median excludes batches that something disturbed.
const BATCHES: u32 = 16;

const PAGE: usize = 4096;

/// The pages of the file that is read with direct I/O.
const PAGES: u64 = 1024;

/// The calls to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// A call without a file.
    Getppid,
    /// One byte into a pipe.
    PipeWrite,
    /// One byte into a WAL segment, or into an unrelated file.
    Write,
    /// A page of a database that is no meta page; or of an unrelated file.
    Pwrite64,
    /// Of the segment.
    Fdatasync,
    /// A thread wakes another on the same CPU and sleeps until it is woken: one switch, and two futex calls.
    Switch,
    /// A page from the device itself: one block request.
    DirectRead,
}

impl Call {
    /// The calls without further cost.
    pub const PLAIN: [Self; 5] =
        [Self::Getppid, Self::PipeWrite, Self::Write, Self::Pwrite64, Self::Fdatasync];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Getppid => "getppid",
            Self::PipeWrite => "write-pipe",
            Self::Write => "write",
            Self::Pwrite64 => "pwrite64",
            Self::Fdatasync => "fdatasync",
            Self::Switch => "switch",
            Self::DirectRead => "direct-read",
        }
    }
}

impl FromStr for Call {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let mut all = Self::PLAIN.into_iter().chain([Self::Switch, Self::DirectRead]);
        all.find(|call| call.as_str() == name).with_context(|| format!("cannot find the call {name}"))
    }
}

/// A page-aligned buffer for direct I/O.
#[repr(align(4096))]
struct Page([u8; PAGE]);

/// The files by which the probe recognizes an etcd, or others of the same kind.
pub struct Files {
    directory: PathBuf,
    pub segment: File,
    database: File,
    pipe: (PipeReader, PipeWriter),
}

impl Files {
    pub fn create(directory: &Path, like_etcd: bool) -> anyhow::Result<Self> {
        let (segment, database) = if like_etcd {
            ("wal/0000000000000000-0000000000000000.wal", "snap/db")
        } else {
            ("one/file", "another/file")
        };
        Ok(Self {
            directory: directory.to_owned(),
            segment: create(&directory.join(segment), OFlags::empty())?,
            database: create(&directory.join(database), OFlags::empty())?,
            pipe: pipe().context("cannot make a pipe")?,
        })
    }

    /// Returns nanoseconds per call: the median of the batches.
    pub fn time(&self, call: Call, times: u32) -> anyhow::Result<f64> {
        let batch = (times / BATCHES).clamp(1, BATCH);
        let mut batches = Vec::new();
        let mut measure = |one: &mut dyn FnMut() -> std_io::Result<()>,
                           after: &dyn Fn() -> std_io::Result<()>| {
            for _ in 0..times.div_ceil(batch) {
                let started = Instant::now();
                for _ in 0..batch {
                    one()?;
                }
                batches.push(started.elapsed().as_nanos() as f64 / f64::from(batch));
                after()?;
            }
            anyhow::Ok(())
        };
        let nothing = || Ok(());
        let page = [0_u8; PAGE];
        match call {
            Call::Getppid => {
                let mut one = || {
                    black_box(getppid());
                    Ok(())
                };
                measure(&mut one, &nothing)
            }
            Call::PipeWrite => {
                let drain = || done(io::read(&self.pipe.0, &mut [0_u8; BATCH as usize]));
                measure(&mut || done(io::write(&self.pipe.1, &[0])), &drain)
            }
            Call::Write => measure(&mut || done(io::write(&self.segment, &[0])), &|| done(self.rewind())),
            Call::Pwrite64 => {
                measure(&mut || done(io::pwrite(&self.database, &page, 8 * PAGE as u64)), &nothing)
            }
            Call::Fdatasync => measure(&mut || done(fdatasync(self.segment.as_fd())), &nothing),
            Call::Switch => with_partner(|hand_over| {
                let mut one = || {
                    hand_over();
                    Ok(())
                };
                measure(&mut one, &nothing)
            }),
            Call::DirectRead => {
                let file = self.file_to_read()?;
                let mut page = Box::new(Page([0; PAGE]));
                let mut at = 0_u64;
                let mut one = || {
                    // Non-adjacent pages, so that nothing is merged or read ahead.
                    at = (at + 389) % PAGES;
                    done(io::pread(&file, &mut page.0, at * PAGE as u64))
                };
                measure(&mut one, &nothing)
            }
        }?;
        // A round trip takes two switches.
        let calls = if call == Call::Switch { 2.0 } else { 1.0 };
        Ok(median(&batches).context("there is a batch")? / calls)
    }

    /// Makes the next write of a segment overwrite its beginning.
    pub fn rewind(&self) -> io::Result<()> {
        seek(&self.segment, SeekFrom::Start(0)).map(drop)
    }

    fn file_to_read(&self) -> anyhow::Result<File> {
        let path = self.directory.join("read");
        let file = create(&path, OFlags::empty())?;
        for page in 0..PAGES {
            io::pwrite(&file, &[1_u8; PAGE], page * PAGE as u64)?;
        }
        file.sync_all().context("cannot sync the file to read")?;
        let direct = OpenOptions::new().read(true).custom_flags(flags(OFlags::DIRECT)).open(&path);
        direct.with_context(|| format!("cannot open {} around the page cache", path.display()))
    }
}

/// Creates an empty file at that path, and its directory.
fn create(path: &Path, more: OFlags) -> anyhow::Result<File> {
    let failed = || format!("cannot create {}", path.display());
    fs::create_dir_all(path.parent().context("a file is in a directory")?).with_context(failed)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).custom_flags(flags(more));
    options.open(path).with_context(failed)
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

/// Discards the result of a call, but not its error.
fn done<T>(returned: io::Result<T>) -> std_io::Result<()> {
    returned.map(drop).map_err(Into::into)
}

/// Runs a function that hands the CPU to another thread of this process and gets it back.
fn with_partner<T>(run: impl FnOnce(&mut dyn FnMut()) -> T) -> T {
    let (theirs, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let us = thread::current();
    thread::scope(|scope| {
        let partner = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                if theirs.swap(false, Ordering::AcqRel) {
                    us.unpark();
                }
                thread::park();
            }
        });
        let result = run(&mut || {
            theirs.store(true, Ordering::Release);
            partner.thread().unpark();
            while theirs.load(Ordering::Acquire) {
                thread::park();
            }
        });
        over.store(true, Ordering::Release);
        partner.thread().unpark();
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_tests::machine::scratch::Scratch;

    #[test]
    fn calls_are_known_by_their_names_and_take_time() {
        let scratch = Scratch::on_disk("call-test").unwrap();
        let files = Files::create(scratch.path(), true).unwrap();
        for call in Call::PLAIN.into_iter().chain([Call::Switch]) {
            assert_eq!(call.as_str().parse::<Call>().unwrap(), call);
            assert!(files.time(call, 20).unwrap() > 0.0, "{call:?}");
        }
        assert!("fsync".parse::<Call>().is_err());
    }
}
