//! Implements `openat2(2)` with `RESOLVE_IN_ROOT` and `RESOLVE_BENEATH` step by step, for where that call is
//! forbidden: systemd's `RestrictSUIDSGID=` makes it return ENOSYS, because a system call filter cannot
//! inspect the mode with which the call may create a file.
//!
//! Every directory on the path is held open, the kernel follows no link, and `..` returns to the directory
//! held before. So a process that renames directories or replaces links at the same time can make the walk
//! fail, but cannot lead it out of the root.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, fstat, openat, readlinkat},
    io::Errno,
};

/// Maximum number of links on a path, the same as the kernel's: `MAXSYMLINKS` of include/linux/namei.h.
const LINKS_MAX: u32 = 40;

/// How a path that would leave the directory is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// It cannot leave: the directory is the root, and its `..` is the directory itself.
    Root,
    /// An absolute path or link, or too many `..`, is an error.
    Beneath,
}

/// Opens a path below a directory.
///
/// # Errors
/// The errors of `openat2(2)`.
pub fn open(directory: BorrowedFd, path: &Path, flags: OFlags, bounds: Bounds) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut pending = Vec::new();
    push(&mut pending, path);
    let mut links = 0;
    while let Some(step) = pending.pop() {
        let here = held.last().map_or(directory, AsFd::as_fd);
        match step {
            Step::Root if bounds == Bounds::Beneath => return Err(Errno::XDEV.into()),
            Step::Root => held.clear(),
            Step::Up => {
                if held.pop().is_none() && bounds == Bounds::Beneath {
                    return Err(Errno::XDEV.into());
                }
            }
            Step::Down(name) => {
                let found =
                    openat(here, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let is_last = pending.is_empty();
                let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
                if kind == FileType::Symlink && !(is_last && flags.contains(OFlags::NOFOLLOW)) {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    let target = readlinkat(&found, "", Vec::new())?.into_bytes();
                    push(&mut pending, &PathBuf::from(OsString::from_vec(target)));
                } else if is_last {
                    // Opened by name a second time, so it must not have become a link.
                    return Ok(openat(here, &name, flags | OFlags::NOFOLLOW, Mode::empty())?);
                } else if kind != FileType::Directory {
                    return Err(Errno::NOTDIR.into());
                } else {
                    held.push(found);
                }
            }
        }
    }
    // The last component of the path was the root or `..`.
    Ok(openat(held.last().map_or(directory, AsFd::as_fd), ".", flags, Mode::empty())?)
}

#[derive(Debug)]
enum Step {
    Root,
    Up,
    Down(OsString),
}

/// Inserts the components of a path before the pending ones. `pending` is in reverse order: the next step is
/// the last.
fn push(pending: &mut Vec<Step>, path: &Path) {
    let steps = path.components().filter_map(|part| match part {
        Component::RootDir => Some(Step::Root),
        Component::ParentDir => Some(Step::Up),
        Component::Normal(name) => Some(Step::Down(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    });
    let at = pending.len();
    pending.extend(steps);
    pending[at..].reverse();
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{CWD, ResolveFlags, openat2};

    use super::*;

    /// Returns the device and inode of the opened file, or the error number.
    fn identity(outcome: io::Result<OwnedFd>) -> Result<(u64, u64), Option<i32>> {
        let fd = outcome.map_err(|error| error.raw_os_error())?;
        let stat = fstat(&fd).unwrap();
        Ok((stat.st_dev, stat.st_ino))
    }

    #[test]
    fn the_walk_agrees_with_the_kernel() {
        let outside = std::env::temp_dir().join(format!("etcd-disk-probe-walk-{}", std::process::id()));
        let root = outside.join("root");
        fs::create_dir_all(root.join("etc/pki")).unwrap();
        fs::write(root.join("etc/pki/ca.crt"), "inside").unwrap();
        fs::write(outside.join("secret"), "outside").unwrap();
        let links = [
            ("absolute", "/etc/pki/ca.crt"),
            ("relative", "etc/../etc/pki"),
            ("out", "../secret"),
            ("far-out", "../../../../../etc/passwd"),
            ("etc/up", "../../../secret"),
            ("etc/pki/back", ".."),
            ("loop", "loop"),
            ("dangling", "/nowhere"),
            ("chain", "absolute"),
            ("root", "/"),
            ("sideways", "relative/../../out"),
        ];
        for (name, target) in links {
            symlink(target, root.join(name)).unwrap();
        }
        let fd = openat(CWD, &root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let paths = [
            "/etc/pki/ca.crt",
            "etc/pki/ca.crt",
            "./etc//pki/./ca.crt",
            "/",
            ".",
            "..",
            "/..",
            "../secret",
            "../../secret",
            "etc/../../secret",
            "etc/pki/ca.crt/x",
            "etc/pki/ca.crt/..",
            "absolute",
            "/absolute",
            "relative",
            "relative/ca.crt",
            "relative/../..",
            "out",
            "far-out",
            "etc/up",
            "etc/pki/back",
            "etc/pki/back/up",
            "loop",
            "loop/x",
            "dangling",
            "chain",
            "root",
            "root/etc",
            "root/..",
            "sideways",
            "nowhere",
            "etc/nowhere/x",
        ];
        let kinds = [(Bounds::Root, ResolveFlags::IN_ROOT), (Bounds::Beneath, ResolveFlags::BENEATH)];
        let flags =
            [OFlags::RDONLY, OFlags::PATH, OFlags::PATH | OFlags::DIRECTORY, OFlags::PATH | OFlags::NOFOLLOW];
        for path in paths {
            for (bounds, resolve) in kinds {
                for flags in flags {
                    let walked = identity(open(fd.as_fd(), Path::new(path), flags, bounds));
                    let kernel = openat2(&fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
                    assert_eq!(walked, identity(kernel.map_err(Into::into)), "{path} {bounds:?} {flags:?}");
                }
            }
        }
        fs::remove_dir_all(outside).unwrap();
    }
}
