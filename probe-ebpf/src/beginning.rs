//! What begins with a system call: its series, the state of the database, and what ends together with it.

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_log_ebpf::debug;
use probe_ebpf::{
    commit::{self, Page},
    miss::Miss,
    name::Named,
    series::{BACKEND_COMMIT, META_COMMIT, Op, Role, WAL_FSYNC, series},
    state::{
        Backend, ENDS_COMMIT, ENDS_META, ENDS_ROTATION, ENDS_WAL_FSYNC, ENDS_WAL_FSYNC_ALWAYS, FOREIGN,
        KnownFile, Target, Thread, UNKNOWN, UNNAMED, UNREADABLE,
    },
};

use crate::{
    account::account,
    fault,
    file::{Dentry, Identity},
    known_file::place,
    maps::{FAULT, count},
    operation::{Arguments, now_ns},
    record, switch,
    target::target_state,
};

/// Begins an operation of the running thread on one of its files.
#[inline(always)]
pub fn begin(
    op: Op,
    arguments: Arguments,
    dentry: Dentry,
    thread: &mut Thread,
    named: u32,
) -> Result<(), Miss> {
    thread.ends = 0;
    thread.descriptor = arguments.descriptor as u32;
    thread.offset = arguments.offset;
    let target = target_state(thread.target)?;
    let mut writes = None;
    let begun = match named {
        FOREIGN => Err(Miss::ForeignWal),
        UNREADABLE => Err(Miss::UnreadableFile),
        UNNAMED => directory(op, dentry, target, thread),
        named => of_role(op, arguments, Named::unpacked(named), target, thread, &mut writes),
    };
    thread.series = match begun {
        Ok(series) => series,
        Err(miss) => {
            debug!(
                (),
                "process {}: op {} counts as nothing, reason {}",
                target_pid(target),
                op as u32,
                miss as u32
            );
            count(miss);
            // So that its exit finds an entry.
            thread.ends = 0;
            UNKNOWN
        }
    };
    debug!(
        (),
        "process {}: op {} is series {}, ends {}",
        target_pid(target),
        op as u32,
        thread.series,
        thread.ends
    );
    let started = start(thread);
    if let Some(Writes { backend, page }) = writes {
        // After the clock, which is read once.
        // SAFETY: the element lives as long as its map; bbolt writes a database under a lock.
        unsafe { (*backend).begin_write(page, arguments.bytes, thread.started_ns) };
    }
    started
}

/// What a transaction writes, or grows its file with.
struct Writes {
    backend: *mut Backend,
    page: Page,
}

fn target_pid(target: *mut Target) -> u32 {
    // SAFETY: elements live as long as their map.
    unsafe { (*target).tgid }
}

/// Returns the series of an operation on a file with a role, having noted what ends with it.
#[inline(always)]
fn of_role(
    op: Op,
    arguments: Arguments,
    named: Named,
    target: *mut Target,
    thread: &mut Thread,
    writes: &mut Option<Writes>,
) -> Result<u32, Miss> {
    let series = series(named.role, op).ok_or(Miss::UnknownOperation)?;
    match named.role {
        Role::Wal => segment(op, named, target, thread),
        Role::Backend => *writes = database(op, arguments, target, thread)?,
        Role::WalDir | Role::Snapshot | Role::Defrag => {}
    }
    Ok(series)
}

#[inline(always)]
fn segment(op: Op, named: Named, target: *mut Target, thread: &mut Thread) {
    match op {
        Op::Fdatasync => thread.ends = ENDS_WAL_FSYNC | ENDS_WAL_FSYNC_ALWAYS,
        Op::Fsync => thread.ends = ENDS_WAL_FSYNC,
        // `cut` begins with the truncation of the full segment. So does opening a WAL for writing, but then no sync of
        // the directory follows, and the next truncation begins anew.
        // SAFETY: the element lives as long as its map; etcd rotates under the WAL's lock.
        Op::Ftruncate if named.is_segment => unsafe { (*target).cut_started_ns = now_ns() },
        _ => {}
    }
}

/// Returns the series of a sync of a file whose name says nothing: it may be one of the WAL's directories.
#[inline(always)]
fn directory(op: Op, dentry: Dentry, target: *mut Target, thread: &mut Thread) -> Result<u32, Miss> {
    // SAFETY: the element lives as long as its map; both inodes are written once.
    let target = unsafe { &*target };
    let Identity { inode, dev } = dentry.identity()?;
    let is_wal_dir = dev == target.wal_dev && inode == target.wal_dir_inode;
    // etcd renames the new WAL into place, which it cannot across file systems, so both are on one.
    let is_above = dev == target.wal_dev && inode == target.wal_parent_inode;
    if !is_wal_dir && !is_above {
        return Err(Miss::UnknownFile);
    }
    let series = series(Role::WalDir, op).ok_or(Miss::UnknownOperation)?;
    thread.ends = if is_wal_dir { ENDS_WAL_FSYNC | ENDS_ROTATION } else { ENDS_WAL_FSYNC };
    Ok(series)
}

#[inline(always)]
fn database(
    op: Op,
    arguments: Arguments,
    target: *mut Target,
    thread: &mut Thread,
) -> Result<Option<Writes>, Miss> {
    let KnownFile { inode, dev, .. } = thread.files[place(arguments.descriptor)];
    thread.inode = inode;
    // SAFETY: the element lives as long as its map; bbolt writes a database under a lock.
    let backends = unsafe { &mut (*target).backends };
    thread.backend = position(backends, Identity { inode, dev })?;
    let backend = &mut backends[thread.backend as usize % backends.len()];
    let Arguments { buffer, bytes, offset, .. } = arguments;
    match op {
        Op::Pwrite64 => {
            let page = page(backend, buffer, bytes, offset);
            if matches!(page, Page::Meta) {
                thread.ends = ENDS_META;
            }
            Ok(Some(Writes { backend, page }))
        }
        Op::Ftruncate => Ok(Some(Writes { backend, page: Page::Data })),
        Op::Fdatasync if backend.ends_with_sync() => {
            thread.ends = ENDS_COMMIT;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// Tells what a write to a database is, by its first bytes where it may be a meta page.
#[inline(always)]
fn page(backend: &Backend, buffer: u64, bytes: u64, offset: u64) -> Page {
    if !commit::may_be_meta(offset, bytes) {
        return Page::Data;
    }
    // SAFETY: the helper checks the address and fails on one that cannot be read. bbolt has just filled the buffer, so
    // it is in memory.
    match unsafe { bpf_probe_read_user(buffer as *const [u8; commit::HEAD_BYTES]) } {
        Ok(head) => commit::page(&head, bytes),
        Err(_) => {
            count(Miss::UnreadablePage);
            backend.guess(offset, bytes)
        }
    }
}

/// Returns the position of a database, taking a free one or the one longest unused if it has none.
#[inline(always)]
fn position(backends: &mut [Backend], identity: Identity) -> Result<u32, Miss> {
    let mut oldest: Option<u32> = None;
    let mut oldest_ns = u64::MAX;
    for (at, backend) in backends.iter().enumerate() {
        if backend.inode == identity.inode && backend.dev == identity.dev {
            return Ok(at as u32);
        }
        // A database with a transaction in progress is never given up.
        if backend.commit_started_ns == 0 && backend.used_ns < oldest_ns {
            oldest_ns = backend.used_ns;
            oldest = Some(at as u32);
        }
    }
    let free = oldest.ok_or(Miss::BackendsFull)?;
    backends[free as usize % backends.len()] =
        Backend { inode: identity.inode, dev: identity.dev, ..Backend::default() };
    Ok(free)
}

/// Starts the clock, last of all.
#[inline(always)]
fn start(thread: &mut Thread) -> Result<(), Miss> {
    let times = if FAULT.load() == 0 { 1 } else { fault::times(thread)? };
    if times == 0 {
        return Ok(());
    }
    if thread.ends & ENDS_WAL_FSYNC != 0 {
        record::enter(WAL_FSYNC, thread.target, times);
    }
    if thread.ends & ENDS_META != 0 {
        record::enter(META_COMMIT, thread.target, 1);
    }
    if thread.ends & ENDS_COMMIT != 0 {
        record::enter(BACKEND_COMMIT, thread.target, times);
    }
    thread.requests = 0;
    thread.flushes = 0;
    switch::begin(thread);
    let left_over = thread.started_ns != 0;
    let account = account();
    thread.account = account.unwrap_or_default();
    thread.started_ns = now_ns();
    account?;
    if left_over { Err(Miss::EnterWithoutExit) } else { Ok(()) }
}
