//! Opens files by the paths that another process uses.
//!
//! The process may be in a container, and a user who controls the container controls its symbolic links.
//! Therefore a path is resolved by `openat2(2)` with `RESOLVE_IN_ROOT` (Linux 5.6): no link, absolute or
//! relative, leads out of the root of the process, and the file is used only through the resulting
//! descriptor. Where that system call is forbidden, `path_walk` does the same step by step.

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

/// A file, by the path that a process uses for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    pub path: PathBuf,
    /// The process whose root and working directory the path is relative to; `None` for our own.
    pub root_of: Option<ProcessId>,
}

impl FileRef {
    /// Reads the whole file, which must be a regular one of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// If it cannot be opened or read, is not a regular file, or is larger.
    pub fn read(&self, limit: u64) -> io::Result<Vec<u8>> {
        read_regular(self.open(OFlags::RDONLY | OFlags::NONBLOCK)?, limit)
    }

    /// Opens the file.
    ///
    /// # Errors
    ///
    /// If there is no such file at this path, or access is denied.
    pub fn open(&self, flags: OFlags) -> io::Result<OwnedFd> {
        match self.root_of {
            Some(process) => Root::of(process)?.open(&self.path, flags),
            None => Ok(rustix::fs::openat(CWD, &self.path, flags | OFlags::CLOEXEC, Mode::empty())?),
        }
    }
}

/// A root directory, held open.
#[derive(Debug)]
pub struct Root {
    /// The process that has this root; `None` for our own, or for a directory that is the root of no process.
    process: Option<ProcessId>,
    fd: OwnedFd,
}

/// A directory of another process, held open.
#[derive(Debug)]
pub struct OpenDirectory {
    fd: OwnedFd,
    /// As returned by `stat(2)`; on btrfs it differs from the device number in mountinfo and in the kernel's
    /// superblock.
    pub st_dev: u64,
    pub inode: u64,
}

impl Root {
    /// Opens the root of a process. For a process of another user this requires `CAP_SYS_PTRACE`.
    ///
    /// # Errors
    ///
    /// If the process has ended, or access to its root is denied.
    pub fn of(process: ProcessId) -> io::Result<Self> {
        let fd = open_directory(&process.proc_path("root"))?;
        // The pid may have been reused before the root was opened, but not after: the descriptor keeps
        // referring to the same directory.
        if !process.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self { process: Some(process), fd })
    }

    /// Opens a directory as a root in which no process has a working directory; `/` is our own root.
    ///
    /// # Errors
    ///
    /// If it is not a directory, or access is denied.
    pub fn at(directory: &Path) -> io::Result<Self> {
        Ok(Self { process: None, fd: open_directory(directory)? })
    }

    /// Returns whether something exists, or may exist, at this path: a path that cannot be inspected does not
    /// count as absent.
    pub fn may_contain(&self, path: &Path) -> bool {
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        self.open(path, OFlags::PATH).map_or_else(|error| !absent.contains(&error.kind()), |_| true)
    }

    /// Opens a path as the process would, with links kept inside its root.
    ///
    /// # Errors
    ///
    /// The errors of `openat2(2)`; the most frequent one is that there is no such path inside the root.
    pub fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        if path.is_absolute() {
            return open_in(&self.fd, path, flags, ResolveFlags::IN_ROOT);
        }
        let process = self.process.ok_or(io::ErrorKind::NotFound)?;
        let cwd = open_directory(&process.proc_path("cwd"))?;
        match self.locate(process, &cwd)? {
            Some(directory) => open_in(&self.fd, &directory.join(path), flags, ResolveFlags::IN_ROOT),
            // The working directory has no path inside the root: do not follow links that lead out of the
            // working directory.
            None => open_in(&cwd, path, flags, ResolveFlags::BENEATH),
        }
    }

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// If it cannot be opened or read, is not a regular file, or is larger.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        read_regular(self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?, limit)
    }

    /// Opens a directory.
    ///
    /// # Errors
    ///
    /// If there is no such directory inside the root.
    pub fn directory(&self, path: &Path) -> io::Result<OpenDirectory> {
        let fd = self.open(path, OFlags::PATH | OFlags::DIRECTORY)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok(OpenDirectory { fd, st_dev: stat.st_dev, inode: stat.st_ino })
    }

    /// Converts a path read from a link in /proc to the path inside the root.
    pub fn inside(&self, path: PathBuf) -> PathBuf {
        let root = self.process.and_then(|process| std::fs::read_link(process.proc_path("root")).ok());
        let inside = root.and_then(|root| Some(Path::new("/").join(path.strip_prefix(root).ok()?)));
        inside.unwrap_or(path)
    }

    /// Returns the path of the working directory inside the root, if it is inside.
    ///
    /// The targets of the links in /proc are relative to *our* root or to the mount namespace of the process.
    /// So both are candidates, and comparing inodes decides between them.
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

impl OpenDirectory {
    /// Returns whether the file of this name directly inside the directory is the target of `link`, an entry
    /// of /proc/PID/fd.
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

/// Returns the path as etcd would write it in its own log: absolute, resolved against the working directory
/// in /proc.
pub fn absolute_path(process: ProcessId, path: &Path) -> PathBuf {
    if path.is_absolute() {
        return path.to_path_buf();
    }
    let cwd = std::fs::read_link(process.proc_path("cwd")).unwrap_or_default();
    let root = std::fs::read_link(process.proc_path("root")).unwrap_or_else(|_| "/".into());
    let cwd = cwd.strip_prefix(&root).map_or(cwd.clone(), |rest| Path::new("/").join(rest));
    cwd.join(path).components().filter(|part| *part != Component::CurDir).collect()
}

fn open_in(directory: &OwnedFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    // The kernel would resolve a magic link (/proc/self/root in the container's own procfs) for our process.
    let safe = resolve | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(directory.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), safe) {
            Err(rustix::io::Errno::NOSYS) => {
                let in_root = resolve.contains(ResolveFlags::IN_ROOT);
                let bounds = if in_root { Bounds::Root } else { Bounds::Beneath };
                return path_walk::open(directory.as_fd(), path, flags, bounds);
            }
            // EAGAIN: a rename happened on the system while the kernel resolved `..`; the call must be
            // repeated.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Reads a regular file. Reading a FIFO would block and reading a device might never end; etcd can use
/// neither.
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
