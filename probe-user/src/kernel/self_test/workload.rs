//! The workload of the self-test: its files, and the system calls on them.

use std::{
    fs::File,
    io::{self, Seek, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use probe_ebpf::commit::{HEAD_BYTES, meta_head};
use rustix::{
    fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, fstatfs, mkdirat, openat, unlinkat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::SelfTestError;

/// Bytes written to the segment.
pub const RECORD: usize = 512;

/// Bytes per page of the database.
pub const PAGE: u32 = 4096;

/// Directories for the files if a private file system cannot be created. They are in memory on every usual
/// system, so that the test never waits for a disk or a frozen file system.
const DIRECTORIES: [&str; 3] = ["/dev/shm", "/run", "/tmp"];
const DIRECTORIES_TEXT: &str = "/dev/shm, /run and /tmp";

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of include/uapi/linux/magic.h.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

const SEGMENT: &str = "0000000000000000-0000000000000000.wal";

/// Files with the names and directories of etcd's. They are unlinked and held open, so no other process can
/// see them.
#[derive(Debug)]
pub struct Workload {
    member: File,
    wal: File,
    segment: File,
    database: File,
}

impl Workload {
    /// Creates the files on a tmpfs that is not attached to any mount namespace, or, without permission for
    /// that, in a directory in memory.
    ///
    /// # Errors
    /// If no file can be created in any of them.
    pub fn prepare() -> Result<Self, SelfTestError> {
        let own = own_tmpfs().map_err(io::Error::from).and_then(|root| Self::make(root.as_fd()));
        let mut last = match own {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        for directory in DIRECTORIES {
            match in_memory(directory).and_then(|directory| Self::make(directory.as_fd())) {
                Ok(made) => return Ok(made),
                Err(error) => last = error,
            }
        }
        Err(SelfTestError::NoDirectory { directories: DIRECTORIES_TEXT, source: last })
    }

    /// Creates a member's directories and files, opens them and unlinks them.
    fn make(directory: BorrowedFd) -> io::Result<Self> {
        let name = format!("etcd-disk-probe-{}", std::process::id());
        mkdirat(directory, &name, Mode::RWXU)?;
        let made = Self::make_in(directory, &name);
        unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
        made
    }

    fn make_in(directory: BorrowedFd, name: &str) -> io::Result<Self> {
        let member = open_directory(directory, name)?;
        let (wal, segment) = directory_with(member.as_fd(), "wal", SEGMENT)?;
        let (_, database) = directory_with(member.as_fd(), "snap", "db")?;
        Ok(Self { member: member.into(), wal: wal.into(), segment, database })
    }

    /// Issues etcd's system calls for a record, a rotation and a commit. `expected` in the parent module
    /// counts them.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn run(&mut self) -> Result<(), SelfTestError> {
        let failed = |what| move |error: io::Error| SelfTestError::Failed(what, error);
        let pages = 2 * u64::from(PAGE);
        let mut page = [0; PAGE as usize];
        fallocate(&self.segment, FallocateFlags::empty(), 0, pages)
            .map_err(|error| SelfTestError::Failed("allocate", error.into()))?;
        self.segment.rewind().map_err(failed("rewind"))?;
        self.segment.write_all(&[0; RECORD]).map_err(failed("write"))?;
        self.segment.sync_data().map_err(failed("sync"))?;
        // A rotation.
        self.segment.set_len(RECORD as u64).map_err(failed("truncate"))?;
        self.segment.sync_data().map_err(failed("sync"))?;
        self.wal.sync_all().map_err(failed("sync"))?;
        self.member.sync_all().map_err(failed("sync"))?;
        // A commit for which the database grows.
        self.database.set_len(2 * pages).map_err(failed("truncate"))?;
        self.database.sync_all().map_err(failed("sync"))?;
        self.database.write_all_at(&page, pages).map_err(failed("write"))?;
        self.database.sync_data().map_err(failed("sync"))?;
        page[..HEAD_BYTES].copy_from_slice(&meta_head(PAGE));
        self.database.write_all_at(&page, 0).map_err(failed("write"))?;
        self.database.sync_data().map_err(failed("sync"))
    }
}

/// Returns the root of a file system in memory that belongs to no mount namespace; it is removed with its
/// last file.
fn own_tmpfs() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Opens a directory if its files are in memory.
fn in_memory(directory: &str) -> io::Result<OwnedFd> {
    let directory = open_directory(CWD, directory)?;
    let is_in_memory = IN_MEMORY.contains(&fstatfs(&directory)?.f_type);
    is_in_memory.then_some(directory).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn open_directory(at: BorrowedFd, name: &str) -> io::Result<OwnedFd> {
    Ok(openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Creates a directory with one file, opens both and unlinks both.
fn directory_with(at: BorrowedFd, name: &str, file: &str) -> io::Result<(OwnedFd, File)> {
    mkdirat(at, name, Mode::RWXU)?;
    let made = open_directory(at, name).and_then(|directory| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = openat(&directory, file, flags, Mode::RUSR | Mode::WUSR)?;
        unlinkat(&directory, file, AtFlags::empty())?;
        Ok((directory, made.into()))
    });
    unlinkat(at, name, AtFlags::REMOVEDIR)?;
    made
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn its_files_have_no_name() {
        let Some(directory) = DIRECTORIES.into_iter().find(|directory| in_memory(directory).is_ok()) else {
            panic!("the tests need one of {DIRECTORIES_TEXT} to be in memory")
        };
        let mut workload = Workload::make(in_memory(directory).unwrap().as_fd()).unwrap();
        let name = format!("etcd-disk-probe-{}", std::process::id());
        assert!(!Path::new(directory).join(name).exists(), "its directory is removed");
        workload.run().unwrap();
        workload.run().unwrap();
        assert_eq!(workload.segment.metadata().unwrap().len(), RECORD as u64, "it does not grow");
    }

    #[test]
    fn a_directory_that_is_not_in_memory_is_rejected() {
        assert!(in_memory("/proc").is_err());
    }
}
