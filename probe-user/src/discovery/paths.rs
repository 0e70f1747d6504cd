//! Opens files as another process would find them.
//!
//! That process may live in a container, and whoever controls the container controls its symbolic links. So a path is
//! resolved by `openat2(2)` with `RESOLVE_IN_ROOT` (Linux 5.6): a link, absolute or not, never leads out of the root
//! of the process, and the file is used through the descriptor that this yields. Where that system call is forbidden, `walk` does the
//! same in steps.

mod path_walk;

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use self::path_walk::Bounds;
use super::process_info::ProcessId;

/// A file by the path under which a process knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    pub path: PathBuf,
    /// Whose root and working directory the path is relative to; `None` for our own.
    pub seen_by: Option<ProcessId>,
}

impl FileRef {
    /// Reads the whole file, which must be a regular one of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or read, or is not such a file.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        read_regular(self.open(OFlags::RDONLY | OFlags::NONBLOCK)?, limit)
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// When there is no such file where it belongs, or it is closed to us.
    pub fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        match self.seen_by {
            Some(process) => Root::of(process)?.open(&self.path, flags),
            None => Ok(rustix::fs::openat(CWD, &self.path, flags | OFlags::CLOEXEC, Mode::empty())?),
        }
    }
}

/// A root directory, held open.
#[derive(Debug)]
pub struct Root {
    /// Whose it is; `None` for our own, or a tree that is nobody's.
    process: Option<ProcessId>,
    fd: OwnedFd,
}

/// A directory of another process, held open.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    /// As `stat(2)` tells it; on btrfs this is not the device that mountinfo and the kernel's superblock name.
    pub st_dev: u64,
    pub inode: u64,
}

impl Root {
    /// Opens the root of a process, which needs `CAP_SYS_PTRACE` for a process of another user.
    ///
    /// # Errors
    ///
    /// When the process is gone or its root is closed to us.
    pub fn of(process: ProcessId) -> io::Result<Self> {
        let fd = open_directory(&process.proc_path("root"))?;
        // The pid may have been recycled before we opened its root, but not after: the descriptor stays what it is.
        if !process.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { process: Some(process), fd })
    }

    /// Opens a directory as a root in which nobody has a working directory: `/` is our own.
    ///
    /// # Errors
    ///
    /// When it is no directory, or closed to us.
    pub fn at(directory: &Path) -> io::Result<Self> {
        Ok(Self { process: None, fd: open_directory(directory)? })
    }

    /// Tells whether there is something at this path, or may be: what cannot be looked at is not absent.
    pub fn may_hold(&self, path: &Path) -> bool {
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        self.open(path, OFlags::PATH).map_or_else(|error| !absent.contains(&error.kind()), |_| true)
    }

    /// Opens a path as the process would, with links kept inside its root.
    ///
    /// # Errors
    ///
    /// What `openat2(2)` says: above all that there is no such path inside the root.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        if path.is_absolute() {
            return open_in(&self.fd, path, flags, ResolveFlags::IN_ROOT);
        }
        let process = self.process.ok_or(io::ErrorKind::NotFound)?;
        let cwd = open_directory(&process.proc_path("cwd"))?;
        match self.locate(process, &cwd)? {
            Some(directory) => open_in(&self.fd, &directory.join(path), flags, ResolveFlags::IN_ROOT),
            // Its working directory has no path inside its root: follow nothing that leads out of that directory.
            None => open_in(&cwd, path, flags, ResolveFlags::BENEATH),
        }
    }

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or read, or is not such a file.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        read_regular(self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?, limit)
    }

    /// Opens a directory.
    ///
    /// # Errors
    ///
    /// When there is no such directory inside the root.
    pub fn directory(&self, path: &Path) -> io::Result<Directory> {
        let fd = self.open(path, OFlags::PATH | OFlags::DIRECTORY)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Directory { fd, st_dev: stat.st_dev, inode: stat.st_ino })
    }

    /// Returns a path that /proc tells as it is inside the root.
    pub fn inside(&self, told: PathBuf) -> PathBuf {
        let root = self.process.and_then(|process| std::fs::read_link(process.proc_path("root")).ok());
        let inside = root.and_then(|root| Some(Path::new("/").join(told.strip_prefix(root).ok()?)));
        inside.unwrap_or(told)
    }

    /// Returns where the working directory is inside the root, if it is there.
    ///
    /// The links in /proc are texts relative to *our* root or to the mount namespace of the process, so they are
    /// candidates, and an inode settles which one is right.
    fn locate(&self, process: ProcessId, cwd: &OwnedFd) -> io::Result<Option<PathBuf>> {
        let root = std::fs::read_link(process.proc_path("root"))?;
        let text = std::fs::read_link(process.proc_path("cwd"))?;
        let wanted = rustix::fs::fstat(cwd)?;
        let inside = text.strip_prefix(&root).map(|rest| Path::new("/").join(rest));
        for candidate in inside.into_iter().chain([text.clone()]) {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let Ok(fd) = open_in(&self.fd, &candidate, flags, ResolveFlags::IN_ROOT) else { continue };
            let found = rustix::fs::fstat(&fd)?;
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino) {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }
}

impl Directory {
    /// Tells whether the file of this name directly inside the directory is the one that `link`, an entry of
    /// /proc/PID/fd, leads to.
    pub fn holds(&self, name: &std::ffi::OsStr, link: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let inside = open_in(&self.fd, Path::new(name), flags, ResolveFlags::BENEATH)
            .and_then(|fd| Ok(rustix::fs::fstat(fd)?));
        match (inside, rustix::fs::stat(link)) {
            (Ok(inside), Ok(open)) => (inside.st_dev, inside.st_ino) == (open.st_dev, open.st_ino),
            _ => false,
        }
    }
}

/// Returns the path that etcd would name in its own log: absolute, against the working directory that /proc tells.
pub fn as_seen(process: ProcessId, path: &Path) -> PathBuf {
    if path.is_absolute() {
        return path.to_path_buf();
    }
    let cwd = std::fs::read_link(process.proc_path("cwd")).unwrap_or_default();
    let root = std::fs::read_link(process.proc_path("root")).unwrap_or_else(|_| "/".into());
    let cwd = cwd.strip_prefix(&root).map_or(cwd.clone(), |rest| Path::new("/").join(rest));
    cwd.join(path).components().filter(|part| *part != Component::CurDir).collect()
}

fn open_in(directory: &OwnedFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    // A magic link (/proc/self/root of the container's own procfs) would be resolved for us, not for the process.
    let safe = resolve | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(directory.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), safe) {
            Err(rustix::io::Errno::NOSYS) => {
                let in_root = resolve.contains(ResolveFlags::IN_ROOT);
                let bounds = if in_root { Bounds::Root } else { Bounds::Beneath };
                return path_walk::open(directory.as_fd(), path, flags, bounds);
            }
            // The kernel saw a rename somewhere while it resolved `..`, and wants to be asked again.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// A FIFO would block us, a device would never end; neither is a file that etcd could use.
fn read_regular(file: OwnedFd, limit: u64) -> io::Result<Vec<u8>> {
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}
