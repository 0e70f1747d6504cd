//! The files of the self-test, and what is done to them.

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

/// Bytes that are written to the segment.
pub const RECORD: usize = 512;

/// Bytes of a page of the database.
pub const PAGE: u32 = 4096;

/// Where files may be made if a file system of our own may not: in memory on every usual system, so that no disk and no
/// frozen file system is waited for.
const PLACES: [&str; 3] = ["/dev/shm", "/run", "/tmp"];
const PLACES_IN_WORDS: &str = "/dev/shm, /run and /tmp";

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of include/uapi/linux/magic.h.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

const SEGMENT: &str = "0000000000000000-0000000000000000.wal";

/// Files named and placed as etcd's, which nobody else can see: held open, and in no directory any more.
#[derive(Debug)]
pub struct Rehearsal {
    member: File,
    wal: File,
    segment: File,
    database: File,
}

impl Rehearsal {
    /// Makes the files: on a tmpfs that is mounted nowhere, or without the right to that in a directory in memory.
    ///
    /// # Errors
    /// If no file can be made anywhere.
    pub fn prepare() -> Result<Self, SelfTestError> {
        let own = own_tmpfs().map_err(io::Error::from).and_then(|root| Self::make(root.as_fd()));
        let mut last = match own {
            Ok(made) => return Ok(made),
            Err(error) => error,
        };
        for place in PLACES {
            match in_memory(place).and_then(|place| Self::make(place.as_fd())) {
                Ok(made) => return Ok(made),
                Err(error) => last = error,
            }
        }
        Err(SelfTestError::NoPlace { places: PLACES_IN_WORDS, source: last })
    }

    /// Makes a member's directories and files, opens them and removes them.
    fn make(place: BorrowedFd) -> io::Result<Self> {
        let name = format!("etcd-disk-probe-{}", std::process::id());
        mkdirat(place, &name, Mode::RWXU)?;
        let made = Self::make_in(place, &name);
        unlinkat(place, &name, AtFlags::REMOVEDIR)?;
        made
    }

    fn make_in(place: BorrowedFd, name: &str) -> io::Result<Self> {
        let member = directory(place, name)?;
        let (wal, segment) = directory_with(member.as_fd(), "wal", SEGMENT)?;
        let (_, database) = directory_with(member.as_fd(), "snap", "db")?;
        Ok(Self { member: member.into(), wal: wal.into(), segment, database })
    }

    /// Does what etcd does: a record, a rotation, a commit. What that comes to is told by `done` in the module above.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn play(&mut self) -> Result<(), SelfTestError> {
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

/// Returns the root of a file system in memory that no mount namespace holds; it goes with its last file.
fn own_tmpfs() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Opens a directory if its files are in memory.
fn in_memory(place: &str) -> io::Result<OwnedFd> {
    let place = directory(CWD, place)?;
    let is_in_memory = IN_MEMORY.contains(&fstatfs(&place)?.f_type);
    is_in_memory.then_some(place).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn directory(at: BorrowedFd, name: &str) -> io::Result<OwnedFd> {
    Ok(openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a directory with one file in it; neither has a name any more when they are open.
fn directory_with(at: BorrowedFd, name: &str, file: &str) -> io::Result<(OwnedFd, File)> {
    mkdirat(at, name, Mode::RWXU)?;
    let made = directory(at, name).and_then(|directory| {
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
    fn nothing_of_it_can_be_found() {
        let Some(place) = PLACES.into_iter().find(|place| in_memory(place).is_ok()) else {
            panic!("the tests need one of {PLACES_IN_WORDS} to be in memory")
        };
        let mut rehearsal = Rehearsal::make(in_memory(place).unwrap().as_fd()).unwrap();
        let name = format!("etcd-disk-probe-{}", std::process::id());
        assert!(!Path::new(place).join(name).exists(), "its directory is gone");
        rehearsal.play().unwrap();
        rehearsal.play().unwrap();
        assert_eq!(rehearsal.segment.metadata().unwrap().len(), RECORD as u64, "it does not grow");
    }

    #[test]
    fn a_directory_on_a_disk_is_no_place() {
        assert!(in_memory("/proc").is_err());
    }
}
