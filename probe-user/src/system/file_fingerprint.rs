//! Fingerprints of files, by which a change is detected without reading the file.

use std::{os::fd::AsFd, path::Path};

use rustix::fs::{Stat, fstat, stat};

/// What `stat(2)` reports of a file.
///
/// Symbolic links are followed, so the inode changes when kubelet moves the link `..data` to another
/// directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: i64,
    /// Last change of the content, in nanoseconds since 1970.
    modified_ns: i128,
    /// Last change of the content or of the inode, in nanoseconds since 1970.
    changed_ns: i128,
}

impl Fingerprint {
    /// Returns the fingerprint of a path in our own mount namespace; `None` if there is no such file. Blocks
    /// for as long as the file system does.
    pub fn of_path(path: &Path) -> Option<Self> {
        stat(path).ok().as_ref().map(Self::from)
    }

    /// Returns the fingerprint of an open file.
    pub fn of_descriptor(file: impl AsFd) -> Option<Self> {
        fstat(file).ok().as_ref().map(Self::from)
    }
}

impl From<&Stat> for Fingerprint {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified_ns: ns(stat.st_mtime, stat.st_mtime_nsec),
            changed_ns: ns(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

fn ns(seconds: i64, nanoseconds: impl Into<i128>) -> i128 {
    i128::from(seconds) * 1_000_000_000 + nanoseconds.into()
}
