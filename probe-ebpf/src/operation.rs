//! From the entry of a system call to its return: what is remembered in between, and what ends with it.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_probe_read_user, generated::bpf_ktime_get_ns},
};
use aya_log_ebpf::{debug, info};
use probe_ebpf::{
    commit::{self, Page},
    miss::Miss,
    name::Named,
    series::{BACKEND_COMMIT, META_COMMIT, Op, Role, WAL_FSYNC, WAL_ROTATION, series},
    state::{
        Backend, ENDS_COMMIT, ENDS_META, ENDS_ROTATION, ENDS_WAL_FSYNC, ENDS_WAL_FSYNC_ALWAYS, FIRST,
        KNOWN_FILES, SPARE, Split, Target, Thread, UNKNOWN,
    },
};

use crate::{
    account::account,
    block,
    file::{Dentry, Identity, open_file},
    maps::{BLOCK, FAULT, FAULT_EVENTS, atomic_add, count},
    record::{self, Measured},
    slow, switch,
    target::{is_known_process, is_target, known_thread, target_state, thread},
};

/// The arguments of a system call that matter here; those that it does not have are 0.
#[derive(Clone, Copy)]
pub struct Arguments {
    pub descriptor: u64,
    pub buffer: u64,
    pub bytes: u64,
    pub offset: u64,
}

impl Arguments {
    /// Takes those that matter from where the hook has them, by position; the compiler knows both the call and the positions.
    #[inline(always)]
    pub fn of(op: Op, argument: impl Fn(usize) -> u64) -> Self {
        let descriptor = argument(0);
        match op {
            Op::Pwrite64 => Self { descriptor, buffer: argument(1), bytes: argument(2), offset: argument(3) },
            _ => Self { descriptor, buffer: 0, bytes: 0, offset: 0 },
        }
    }
}

/// [`FAULT`]: forget every thousandth reconciled event.
const DROP: u32 = 1;
/// [`FAULT`]: count every thousandth reconciled event twice.
const DOUBLE: u32 = 2;
/// `Thread::ends`: count what ends twice.
const ENDS_TWICE: u32 = 1 << 31;

/// A system call begins, as `program` sees: [`FIRST`] or [`SPARE`].
#[inline(always)]
pub fn enter<C: EbpfContext>(ctx: &C, program: u32, op: Op, arguments: Arguments) {
    if is_target() {
        if let Err(miss) = try_enter(ctx, program, op, arguments) {
            debug!(ctx, "op {}: missed, reason {}", op as u32, miss as u32);
            count(miss);
        }
    } else if matches!(op, Op::Fdatasync | Op::Fsync) && program == FIRST && BLOCK.load() != 0 {
        // Who else makes the file system's journal commit; what cannot be read is nobody's.
        if let Ok(Some(dentry)) = open_file(arguments.descriptor)
            && let Ok(Identity { dev, .. }) = dentry.identity()
        {
            block::foreign_sync(dev);
        }
    }
}

/// A system call returns.
#[inline(always)]
pub fn exit<C: EbpfContext>(ctx: &C, program: u32, op: Op, returned: i64) {
    if is_target()
        && let Err(miss) = try_exit(program, op, returned)
    {
        debug!(ctx, "op {}: missed, reason {}", op as u32, miss as u32);
        count(miss);
    }
}

#[inline(always)]
fn try_enter<C: EbpfContext>(ctx: &C, program: u32, op: Op, arguments: Arguments) -> Result<(), Miss> {
    // What a faulty probe drops must stay dropped.
    if program == SPARE && FAULT.load() != 0 {
        return Ok(());
    }
    let Some(dentry) = open_file(arguments.descriptor)? else { return Ok(()) };
    let hash_len = dentry.hash_len()?;
    if let Some(thread) = known_thread()? {
        // SAFETY: elements live as long as their map, and only this thread uses its own.
        let thread = unsafe { &mut *thread };
        if let Some(file) = recall(thread, arguments.descriptor, dentry, hash_len)? {
            return begin_named(ctx, program, op, arguments, thread, Ok(file));
        }
    }
    let named = match dentry.named(hash_len)? {
        // `db`, `tmp…` and their like mean something only where etcd keeps them.
        Some(named) if !matches!(named.role, Role::Wal) && !dentry.parent()?.is_snap()? => None,
        other => other,
    };
    match named {
        Some(named) => {
            let thread = thread()?;
            // SAFETY: as above.
            let thread = unsafe { &mut *thread };
            let file = recognise(ctx, dentry, named, thread);
            if let Ok(file) = file {
                remember(thread, arguments.descriptor, dentry, hash_len, file);
            }
            begin_named(ctx, program, op, arguments, thread, file.map(|(file, _)| file))
        }
        // Most writes go to sockets, so no more is done for them.
        None if op.returns_bytes() => Ok(()),
        None => begin_unnamed(ctx, program, op, dentry),
    }
}

/// What a file is to etcd.
#[derive(Clone, Copy)]
struct File {
    named: Named,
    /// Of a database; of others it does not matter.
    identity: Identity,
}

/// Returns what the thread knows of a file.
#[inline(always)]
fn recall(thread: &Thread, descriptor: u64, dentry: Dentry, hash_len: u64) -> Result<Option<File>, Miss> {
    let known = &thread.files[descriptor as usize % KNOWN_FILES];
    if known.dentry != dentry.address() || known.hash_len != hash_len {
        return Ok(None);
    }
    let named = Named::unpacked(known.named);
    if matches!(named.role, Role::Backend) {
        let inode = dentry.inode()?;
        if known.inode_address != inode.address() || known.inode != inode.number()? {
            return Ok(None);
        }
    }
    Ok(Some(File { named, identity: Identity { inode: known.inode, dev: known.dev } }))
}

#[inline(always)]
fn remember(thread: &mut Thread, descriptor: u64, dentry: Dentry, hash_len: u64, (file, inode): (File, u64)) {
    let known = &mut thread.files[descriptor as usize % KNOWN_FILES];
    known.dentry = dentry.address();
    known.hash_len = hash_len;
    known.inode_address = inode;
    known.inode = file.identity.inode;
    known.dev = file.identity.dev;
    known.named = file.named.packed();
}

/// Finds out what a file with a name that matters is, and the address of its inode.
#[inline(always)]
fn recognise<C: EbpfContext>(
    ctx: &C,
    dentry: Dentry,
    named: Named,
    thread: &Thread,
) -> Result<(File, u64), Miss> {
    let mut found = (File { named, identity: Identity { inode: 0, dev: 0 } }, 0);
    match named.role {
        Role::Wal => is_in_wal(ctx, dentry, target_state(thread.target)?)?,
        Role::Backend => {
            let inode = dentry.inode()?;
            found.0.identity = inode.identity()?;
            found.1 = inode.address();
        }
        Role::WalDir | Role::Snapshot | Role::Defrag => {}
    }
    Ok(found)
}

/// Fails unless a segment is in the WAL: the first one tells where that is.
#[inline(always)]
fn is_in_wal<C: EbpfContext>(ctx: &C, dentry: Dentry, target: *mut Target) -> Result<(), Miss> {
    let directory = dentry.parent()?;
    let Identity { inode, dev } = directory.identity()?;
    // SAFETY: the element lives as long as its map. Two threads may find the directory at once; they find the same.
    let target = unsafe { &mut *target };
    if target.wal_dir_inode == 0 {
        let above = directory.parent()?.identity()?;
        target.wal_parent_inode = above.inode;
        target.wal_dev = dev;
        target.wal_dir_inode = inode;
        info!(ctx, "process {}: WAL directory is inode {} on device {}", target.tgid, inode, dev);
    } else if target.wal_dir_inode != inode || target.wal_dev != dev {
        return Err(Miss::ForeignWal);
    }
    Ok(())
}

/// Begins an operation on a file whose name gives it a role.
#[inline(always)]
fn begin_named<C: EbpfContext>(
    ctx: &C,
    program: u32,
    op: Op,
    arguments: Arguments,
    thread: &mut Thread,
    file: Result<File, Miss>,
) -> Result<(), Miss> {
    if !thread.begins(program) {
        return Ok(());
    }
    thread.ends = 0;
    thread.descriptor = arguments.descriptor as u32;
    thread.offset = arguments.offset;
    match file.and_then(|file| prepare(op, arguments, file, thread)) {
        Ok(series) => {
            debug!(ctx, "thread {}: op {} is series {}, ends {}", ctx.pid(), op as u32, series, thread.ends);
            begin(thread, series)
        }
        Err(miss) => {
            // So that its exit finds an entry; it counts as nothing.
            thread.ends = 0;
            begin(thread, UNKNOWN)?;
            Err(miss)
        }
    }
}

/// Returns the series of an operation, having noted what ends with it.
#[inline(always)]
fn prepare(op: Op, arguments: Arguments, file: File, thread: &mut Thread) -> Result<u32, Miss> {
    let series = series(file.named.role, op).ok_or(Miss::UnknownOperation)?;
    let target = target_state(thread.target)?;
    match file.named.role {
        Role::Wal => begin_wal(op, file.named, target, thread),
        Role::Backend => begin_backend(op, arguments, file.identity, target, thread)?,
        Role::WalDir | Role::Snapshot | Role::Defrag => {}
    }
    Ok(series)
}

/// Begins an operation on a segment.
#[inline(always)]
fn begin_wal(op: Op, named: Named, target: *mut Target, thread: &mut Thread) {
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

#[inline(always)]
fn begin_backend(
    op: Op,
    arguments: Arguments,
    identity: Identity,
    target: *mut Target,
    thread: &mut Thread,
) -> Result<(), Miss> {
    thread.inode = identity.inode;
    thread.dev = identity.dev;
    let backend = backend(target, identity)?;
    // SAFETY: the element lives as long as its map; bbolt writes a database under a lock.
    let backend = unsafe { &mut *backend };
    let Arguments { buffer, bytes, offset, .. } = arguments;
    match op {
        Op::Pwrite64 => {
            let page = page(backend, buffer, bytes, offset);
            backend.begin_write(page, bytes, now_ns());
            if matches!(page, Page::Meta) {
                thread.ends = ENDS_META;
            }
        }
        Op::Ftruncate => backend.begin_write(Page::Data, 0, now_ns()),
        Op::Fdatasync if backend.begin_sync(now_ns()) => thread.ends = ENDS_COMMIT,
        _ => {}
    }
    Ok(())
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

/// Returns the entry of a database, taking a free one or the one longest unused if it has none.
#[inline(always)]
fn backend(target: *mut Target, identity: Identity) -> Result<*mut Backend, Miss> {
    // SAFETY: the element lives as long as its map.
    let backends = unsafe { &mut (*target).backends };
    let mut oldest: Option<*mut Backend> = None;
    let mut oldest_ns = u64::MAX;
    for backend in backends.iter_mut() {
        if backend.inode == identity.inode && backend.dev == identity.dev {
            return Ok(backend);
        }
        // A database with a transaction in progress is never given up.
        if backend.commit_started_ns == 0 && backend.used_ns < oldest_ns {
            oldest_ns = backend.used_ns;
            oldest = Some(backend);
        }
    }
    let free = oldest.ok_or(Miss::BackendsFull)?;
    // SAFETY: it points into the element above.
    unsafe {
        *free = Backend { inode: identity.inode, dev: identity.dev, ..Backend::default() };
    }
    Ok(free)
}

/// Begins an operation on a file whose name says nothing: it may be one of the WAL's directories.
#[inline(always)]
fn begin_unnamed<C: EbpfContext>(ctx: &C, program: u32, op: Op, dentry: Dentry) -> Result<(), Miss> {
    // A thread that never touched a file of etcd's may still sync the directory, so its process is what counts.
    let thread = match known_thread()? {
        Some(known) => known,
        None if is_known_process()? => thread()?,
        None => return Ok(()),
    };
    // SAFETY: elements live as long as their map, and only this thread uses its own.
    let thread = unsafe { &mut *thread };
    if !thread.begins(program) {
        return Ok(());
    }
    // SAFETY: as above; both inodes are written once.
    let target = unsafe { &*target_state(thread.target)? };
    let Identity { inode, dev } = dentry.identity()?;
    let is_wal_dir = dev == target.wal_dev && inode == target.wal_dir_inode;
    // etcd renames the new WAL into place, which it cannot across file systems, so both are on one.
    let is_above = dev == target.wal_dev && inode == target.wal_parent_inode;
    thread.ends = 0;
    if !is_wal_dir && !is_above {
        debug!(
            ctx,
            "process {}: op {} on inode {} of device {} is no file of etcd's",
            target.tgid,
            op as u32,
            inode,
            dev
        );
        count(Miss::UnknownFile);
        return begin(thread, UNKNOWN);
    }
    let series = series(Role::WalDir, op).ok_or(Miss::UnknownOperation)?;
    thread.ends = if is_wal_dir { ENDS_WAL_FSYNC | ENDS_ROTATION } else { ENDS_WAL_FSYNC };
    begin(thread, series)
}

/// Starts the clock, last of all.
#[inline(always)]
fn begin(thread: &mut Thread, series: u32) -> Result<(), Miss> {
    let times = if FAULT.load() == 0 { 1 } else { faulty(thread)? };
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
    thread.series = series;
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

/// Returns how often a faulty probe counts this event.
#[inline(always)]
fn faulty(thread: &mut Thread) -> Result<u64, Miss> {
    if thread.ends & (ENDS_WAL_FSYNC | ENDS_COMMIT) == 0 {
        return Ok(1);
    }
    let events = FAULT_EVENTS.get_ptr_mut(0).ok_or(Miss::RingFull)?;
    // SAFETY: the element lives as long as its map; roughly every thousandth will do.
    let events = unsafe {
        atomic_add(events, 1);
        *events
    };
    if events % 1000 != 0 {
        return Ok(1);
    }
    match FAULT.load() {
        DROP => Ok(0),
        DOUBLE => {
            thread.ends |= ENDS_TWICE;
            Ok(2)
        }
        _ => Ok(1),
    }
}

#[inline(always)]
fn try_exit(program: u32, op: Op, returned: i64) -> Result<(), Miss> {
    let Some(thread) = known_thread()? else { return Ok(()) };
    // SAFETY: elements live as long as their map, and only this thread uses its own.
    let thread = unsafe { &mut *thread };
    if !thread.ends(program) {
        return Ok(());
    }
    let started_ns = thread.started_ns;
    if started_ns == 0 {
        // Writes to sockets are not remembered; syncs are, whatever they sync.
        return if op.returns_bytes() { Ok(()) } else { Err(Miss::ExitWithoutEnter) };
    }
    let now_ns = now_ns();
    thread.started_ns = 0;
    let series = thread.series;
    if series == UNKNOWN {
        return Ok(());
    }
    let target = thread.target;
    let failed = returned < 0;
    let bytes = if op.returns_bytes() && !failed { returned as u64 } else { 0 };
    let latency_ns = now_ns.saturating_sub(started_ns);
    let split = match account() {
        Ok(after) => {
            switch::end(thread, after.run_delay_ns);
            Split::of(latency_ns, thread.account, after)
        }
        // Counted at the beginning.
        Err(_) => Split::default(),
    };
    let measured = Measured { target, entered_ns: started_ns, latency_ns, bytes, split };
    record::add(series, measured);
    let errno = if failed { returned.unsigned_abs() as u32 } else { 0 };
    if failed {
        record::error(target, series, errno);
    }
    if measured.is_slow()
        && let Err(miss) = slow::tell(op, thread, measured, errno)
    {
        count(miss);
    }
    if thread.ends != 0 { end(thread, measured, failed, now_ns) } else { Ok(()) }
}

/// Counts what ended together with the operation.
#[inline(always)]
fn end(thread: &Thread, measured: Measured, failed: bool, now_ns: u64) -> Result<(), Miss> {
    let target = target_state(thread.target)?;
    if thread.ends & ENDS_WAL_FSYNC != 0 {
        let counts = !failed || thread.ends & ENDS_WAL_FSYNC_ALWAYS != 0;
        reconcile(WAL_FSYNC, thread.ends, measured, counts);
    }
    if thread.ends & ENDS_ROTATION != 0 {
        // SAFETY: the element lives as long as its map; etcd rotates under the WAL's lock.
        let cut_started_ns = unsafe { &mut (*target).cut_started_ns };
        if *cut_started_ns != 0 {
            let latency_ns = now_ns.saturating_sub(*cut_started_ns);
            record::add(
                WAL_ROTATION,
                Measured { entered_ns: *cut_started_ns, latency_ns, split: Split::default(), ..measured },
            );
            *cut_started_ns = 0;
        }
    }
    if thread.ends & (ENDS_META | ENDS_COMMIT) != 0 {
        let backend = backend(target, Identity { inode: thread.inode, dev: thread.dev })?;
        // SAFETY: the element lives as long as its map; bbolt commits under a lock.
        let backend = unsafe { &mut *backend };
        let entered_ns = backend.commit_started_ns;
        let (series, latency_ns) = if thread.ends & ENDS_META != 0 {
            (META_COMMIT, backend.end_meta(now_ns))
        } else {
            (BACKEND_COMMIT, backend.end_commit(now_ns))
        };
        if failed {
            backend.reset();
        }
        let measured = Measured { entered_ns, latency_ns, bytes: 0, split: Split::default(), ..measured };
        reconcile(series, thread.ends, measured, !failed);
    }
    Ok(())
}

/// Counts an event that etcd counts, too; one that failed is taken back instead.
#[inline(always)]
fn reconcile(series: u32, ends: u32, measured: Measured, counts: bool) {
    let twice = ends & ENDS_TWICE != 0;
    if counts {
        record::add(series, measured);
        if twice {
            record::add(series, measured);
        }
    } else {
        record::enter(series, measured.target, if twice { u64::MAX - 1 } else { u64::MAX });
    }
}

/// Returns ns of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and may be called from any program.
    unsafe { bpf_ktime_get_ns() }
}
