//! A disk of known speed for a kernel without device mapper: a FUSE file system with one file, and a loop
//! device on that file.
//!
//! One thread serves one request after the other, so requests queue as they do on a slow disk.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyWrite, Request, WriteFlags,
};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno as SystemError;
use rustix::mount::{self, UnmountFlags};

use super::{Format, Frozen, Loop, Mount, UNMOUNT_LIMIT};
use crate::machine::cancel::Cancel;
use crate::machine::command;
use crate::machine::process;

/// The only file.
const IMAGE: &str = "disk.img";
const IMAGE_INODE: INodeNo = INodeNo(2);

/// How long the kernel may cache attributes and names, which never change.
const REMEMBERED: Duration = Duration::from_hours(1);

/// An ext4 file system on a disk with a configurable latency for each write and each flush. Deleted,
/// unmounted and detached on drop.
#[derive(Debug)]
pub struct SlowFs {
    // Fields are dropped in this order.
    mount: Mount,
    device: Loop,
    served: Server,
}

/// The requests that a slow disk has served, and the time that it took by its own clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Served {
    pub writes: u64,
    pub flushes: u64,
    pub write_time: Duration,
    pub flush_time: Duration,
}

impl Served {
    /// Returns the requests since an earlier reading.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            flushes: self.flushes - before.flushes,
            write_time: self.write_time.saturating_sub(before.write_time),
            flush_time: self.flush_time.saturating_sub(before.flush_time),
        }
    }

    /// Returns the mean duration of a write in milliseconds; 0 without writes.
    pub fn mean_write_ms(&self) -> f64 {
        self.write_time.as_secs_f64() * 1e3 / self.writes.max(1) as f64
    }

    /// Returns the mean duration of a flush in milliseconds; 0 without flushes.
    pub fn mean_flush_ms(&self) -> f64 {
        self.flush_time.as_secs_f64() * 1e3 / self.flushes.max(1) as f64
    }
}

impl SlowFs {
    /// Creates a disk of `mib` MiB in memory and mounts it at `at`. It is fast until a delay is set.
    pub fn create(at: &Path, mib: u32) -> anyhow::Result<Self> {
        let served = Server::start(&at.with_extension("fuse"), u64::from(mib) << 20)?;
        // Direct I/O bypasses the page cache: only the requests of the file system reach the disk.
        let device = Loop::attach(&served.point.join(IMAGE), &["--direct-io=on"])?;
        // No kernel thread initialises anything in the background later, when the disk is slow.
        let whole = ["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"];
        command::run("mkfs.ext4", &[&whole[..], &[&device.device]].concat())?;
        let mount = Mount::new(&["-t", Format::Ext4.name()], &device.device, at)?;
        Ok(Self { mount, device, served })
    }

    pub fn path(&self) -> &Path {
        &self.mount.point
    }

    /// Returns the device's path, such as `/dev/loop0`.
    pub fn device(&self) -> &str {
        &self.device.device
    }

    /// Sets the latency of each write from now on.
    pub fn write_delay(&self, delay: Duration) {
        self.served.pace.write_ns.store(nanoseconds(delay), Ordering::Relaxed);
    }

    /// Sets the latency of each cache flush from now on.
    pub fn flush_delay(&self, delay: Duration) {
        self.served.pace.flush_ns.store(nanoseconds(delay), Ordering::Relaxed);
    }

    pub fn served(&self) -> Served {
        let pace = &self.served.pace;
        let time = |served_ns: &AtomicU64| Duration::from_nanos(served_ns.load(Ordering::Relaxed));
        Served {
            writes: pace.writes.load(Ordering::Relaxed),
            flushes: pace.flushes.load(Ordering::Relaxed),
            write_time: time(&pace.writes_ns),
            flush_time: time(&pace.flushes_ns),
        }
    }

    /// Freezes the file system: every write and sync on it blocks until the guard is dropped.
    pub fn freeze(&self) -> anyhow::Result<Frozen<'_>> {
        Frozen::new(self.path())
    }
}

impl Drop for SlowFs {
    fn drop(&mut self) {
        // Unmounting writes.
        self.write_delay(Duration::ZERO);
        self.flush_delay(Duration::ZERO);
    }
}

fn nanoseconds(delay: Duration) -> u64 {
    u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)
}

/// The delays, the requests served, and the time that they took.
#[derive(Debug, Default)]
struct Pace {
    write_ns: AtomicU64,
    flush_ns: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    writes_ns: AtomicU64,
    flushes_ns: AtomicU64,
}

/// The thread that serves the file system. Unmounted on drop.
///
/// It is a thread of this process that accesses only memory and its device, so other threads can wait for it.
/// If the process dies, so does the device, and the kernel fails the remaining requests.
#[derive(Debug)]
struct Server {
    session: Option<BackgroundSession>,
    point: PathBuf,
    pace: Arc<Pace>,
}

impl Server {
    fn start(point: &Path, size: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(point).with_context(|| format!("cannot create {}", point.display()))?;
        let memory = memfd_create("disk", MemfdFlags::CLOEXEC).context("cannot get memory for a disk")?;
        let memory = File::from(memory);
        memory.set_len(size).context("cannot size a disk")?;
        let pace = Arc::new(Pace::default());
        let image = Image { memory, size, pace: pace.clone() };
        let mut options = Config::default();
        options.mount_options = vec![MountOption::FSName("slow".to_owned())];
        let session = fuser::spawn_mount(image, point, &options);
        let session = session.with_context(|| format!("cannot mount a slow disk at {}", point.display()))?;
        Ok(Self { session: Some(session), point: point.to_owned(), pace })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A loop device releases its file some time after it was detached.
        let unmounted = Cancel::default().wait_for(UNMOUNT_LIMIT, || {
            match mount::unmount(&self.point, UnmountFlags::empty()) {
                Err(SystemError::BUSY) => Ok(None),
                other => Ok(Some(other?)),
            }
        });
        match unmounted {
            Ok(Some(())) => {
                let ended = self.session.take().map(BackgroundSession::join);
                if let Some(Err(error)) = ended {
                    eprintln!("cannot end the server of {}: {error}", self.point.display());
                }
            }
            // Joining its thread would block while any process holds the file open.
            Ok(None) => eprintln!("cannot unmount {}: it is in use", self.point.display()),
            Err(error) => eprintln!("cannot unmount {}: {error}", self.point.display()),
        }
    }
}

/// The file system: a directory that contains the image.
struct Image {
    memory: File,
    size: u64,
    pace: Arc<Pace>,
}

impl Image {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_image = inode == IMAGE_INODE;
        let size = if is_image { self.size } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if is_image { FileType::RegularFile } else { FileType::Directory },
            perm: if is_image { 0o600 } else { 0o700 },
            nlink: if is_image { 1 } else { 2 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// Counts a request, waits for its delay, and adds up the time that this takes.
///
/// A disk does not wait for a CPU: the thread that serves it precedes others from its first request on.
/// `Filesystem::init` runs on another thread.
fn serve(count: &AtomicU64, delay_ns: &AtomicU64, served_ns: &AtomicU64) {
    thread_local! {
        static PRECEDES: Cell<bool> = const { Cell::new(false) };
    }
    if !PRECEDES.replace(true)
        && let Err(error) = process::take_precedence()
    {
        eprintln!("cannot give the slow disk a real-time priority: {error}");
    }
    count.fetch_add(1, Ordering::Relaxed);
    let delay_ns = delay_ns.load(Ordering::Relaxed);
    if delay_ns > 0 {
        let started = Instant::now();
        thread::sleep(Duration::from_nanos(delay_ns));
        served_ns.fetch_add(nanoseconds(started.elapsed()), Ordering::Relaxed);
    }
}

impl Filesystem for Image {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it the loop device issues one request at a time, and its queue hides the queue of the disk.
        config
            .add_capabilities(InitFlags::FUSE_ASYNC_DIO)
            .map_err(|_| io::Error::other("the kernel's FUSE has no asynchronous direct I/O"))
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == IMAGE {
            reply.entry(&REMEMBERED, &self.attributes(IMAGE_INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&REMEMBERED, &self.attributes(inode));
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        match self.memory.read_at(&mut bytes, offset) {
            Ok(length) => reply.data(&bytes[..length]),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        serve(&self.pace.writes, &self.pace.write_ns, &self.pace.writes_ns);
        match (self.memory.write_all_at(data, offset), u32::try_from(data.len())) {
            (Ok(()), Ok(length)) => reply.written(length),
            _ => reply.error(Errno::EIO),
        }
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _only_data: bool,
        reply: ReplyEmpty,
    ) {
        serve(&self.pace.flushes, &self.pace.flush_ns, &self.pace.flushes_ns);
        reply.ok();
    }
}
