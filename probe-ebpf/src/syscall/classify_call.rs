//! Determines the series of a system call, the write to the database that it makes, and the composite events
//! that it completes.

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_log_ebpf::debug;
use probe_ebpf::{
    commit::{self, Page},
    file_name::ParsedName,
    miss::Miss,
    series::{Op, Role, series},
    state::{
        Backend, COMPLETES_COMMIT, COMPLETES_META, COMPLETES_ROTATION, COMPLETES_WAL_FSYNC,
        COMPLETES_WAL_FSYNC_ALWAYS, CachedFile, FOREIGN, NO_SERIES, Target, Thread, UNNAMED, UNREADABLE,
    },
};

use crate::{
    arguments::Arguments,
    clock::now_ns,
    lookup::{
        file_cache::cache_index,
        vfs::{Dentry, Identity},
    },
    maps::count,
};

/// The database and the kind of page that a transaction writes, or grows its file with.
pub struct PageWrite {
    pub backend: *mut Backend,
    pub page: Page,
}

/// Stores the series of an operation on a file, and what the operation completes; returns the write to a
/// database.
#[inline(always)]
pub fn classify(
    op: Op,
    arguments: Arguments,
    dentry: Dentry,
    thread: &mut Thread,
    parsed_name: u32,
    target: *mut Target,
) -> Option<PageWrite> {
    let mut write = None;
    let classified = match parsed_name {
        FOREIGN => Err(Miss::ForeignWal),
        UNREADABLE => Err(Miss::UnreadableFile),
        UNNAMED => directory(op, dentry, target, thread),
        name => of_role(op, arguments, ParsedName::unpack(name), target, thread, &mut write),
    };
    thread.series = match classified {
        Ok(series) => series,
        Err(miss) => {
            debug!(
                (),
                "process {}: op {} is not counted, reason {}",
                target_pid(target),
                op as u32,
                miss as u32
            );
            count(miss);
            // The operation starts nevertheless, so that its exit finds an entry.
            thread.completes = 0;
            NO_SERIES
        }
    };
    debug!(
        (),
        "process {}: op {} is series {}, completes {}",
        target_pid(target),
        op as u32,
        thread.series,
        thread.completes
    );
    write
}

fn target_pid(target: *mut Target) -> u32 {
    // SAFETY: the element exists as long as its map.
    unsafe { (*target).tgid }
}

/// Returns the series of an operation on a file with a role, and stores what the operation completes.
#[inline(always)]
fn of_role(
    op: Op,
    arguments: Arguments,
    name: ParsedName,
    target: *mut Target,
    thread: &mut Thread,
    write: &mut Option<PageWrite>,
) -> Result<u32, Miss> {
    let series = series(name.role, op).ok_or(Miss::UnknownOperation)?;
    match name.role {
        Role::Wal => segment(op, name, target, thread),
        Role::Backend => *write = database(op, arguments, target, thread)?,
        Role::WalDir | Role::Snapshot | Role::Defrag => {}
    }
    Ok(series)
}

#[inline(always)]
fn segment(op: Op, name: ParsedName, target: *mut Target, thread: &mut Thread) {
    match op {
        Op::Fdatasync => thread.completes = COMPLETES_WAL_FSYNC | COMPLETES_WAL_FSYNC_ALWAYS,
        Op::Fsync => thread.completes = COMPLETES_WAL_FSYNC,
        // `cut` begins with the truncation of the full segment. Opening a WAL for writing begins with one,
        // too, but then no sync of the directory follows, and the next truncation sets the start again.
        // SAFETY: the element exists as long as its map; etcd rotates under the WAL's lock.
        Op::Ftruncate if name.is_segment => unsafe { (*target).cut_started_ns = now_ns() },
        _ => {}
    }
}

/// Returns the series of a sync of a file whose name implies no role: the file may be one of the WAL's
/// directories.
#[inline(always)]
fn directory(op: Op, dentry: Dentry, target: *mut Target, thread: &mut Thread) -> Result<u32, Miss> {
    // SAFETY: the element exists as long as its map; both inodes are written once.
    let target = unsafe { &*target };
    let Identity { inode, dev } = dentry.identity()?;
    let is_wal_dir = dev == target.wal_dev && inode == target.wal_dir_inode;
    // etcd renames the new WAL into place, which is impossible across file systems, so both are on one
    // device.
    let is_parent = dev == target.wal_dev && inode == target.wal_parent_inode;
    if !is_wal_dir && !is_parent {
        return Err(Miss::UnknownFile);
    }
    let series = series(Role::WalDir, op).ok_or(Miss::UnknownOperation)?;
    thread.completes =
        if is_wal_dir { COMPLETES_WAL_FSYNC | COMPLETES_ROTATION } else { COMPLETES_WAL_FSYNC };
    Ok(series)
}

#[inline(always)]
fn database(
    op: Op,
    arguments: Arguments,
    target: *mut Target,
    thread: &mut Thread,
) -> Result<Option<PageWrite>, Miss> {
    let CachedFile { inode, dev, .. } = thread.files[cache_index(arguments.descriptor)];
    thread.inode = inode;
    // SAFETY: the element exists as long as its map; bbolt writes a database under a lock.
    let backends = unsafe { &mut (*target).backends };
    thread.backend = backend_index(backends, Identity { inode, dev })?;
    let backend = &mut backends[thread.backend as usize % backends.len()];
    let Arguments { buffer, bytes, offset, .. } = arguments;
    match op {
        Op::Pwrite64 => {
            let page = page(backend, buffer, bytes, offset);
            if matches!(page, Page::Meta) {
                thread.completes = COMPLETES_META;
            }
            Ok(Some(PageWrite { backend, page }))
        }
        Op::Ftruncate => Ok(Some(PageWrite { backend, page: Page::Data })),
        Op::Fdatasync if backend.ends_with_sync() => {
            thread.completes = COMPLETES_COMMIT;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Returns the kind of a write to a database, by its first bytes if it may be a meta page.
#[inline(always)]
fn page(backend: &Backend, buffer: u64, bytes: u64, offset: u64) -> Page {
    if !commit::may_be_meta(offset, bytes) {
        return Page::Data;
    }
    // SAFETY: the helper checks the address and fails if it cannot be read. bbolt has just filled the buffer,
    // so it is in memory.
    match unsafe { bpf_probe_read_user(buffer as *const [u8; commit::HEAD_BYTES]) } {
        Ok(head) => commit::classify_page(&head, bytes),
        Err(_) => {
            count(Miss::UnreadablePage);
            backend.guess_page(offset, bytes)
        }
    }
}

/// Returns the index of a database, which takes a free entry or the least recently used one if it has none.
#[inline(always)]
fn backend_index(backends: &mut [Backend], identity: Identity) -> Result<u32, Miss> {
    let mut oldest: Option<u32> = None;
    let mut oldest_ns = u64::MAX;
    for (index, backend) in backends.iter().enumerate() {
        if backend.inode == identity.inode && backend.dev == identity.dev {
            return Ok(index as u32);
        }
        // A database with a transaction in progress is not evicted.
        if backend.commit_started_ns == 0 && backend.used_ns < oldest_ns {
            oldest_ns = backend.used_ns;
            oldest = Some(index as u32);
        }
    }
    let free = oldest.ok_or(Miss::BackendsFull)?;
    backends[free as usize % backends.len()] =
        Backend { inode: identity.inode, dev: identity.dev, ..Backend::default() };
    Ok(free)
}
