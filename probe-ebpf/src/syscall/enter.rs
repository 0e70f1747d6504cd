//! The entry of a system call: finds the file, classifies the operation and starts its clock.
//!
//! This is one function, not inlined, so that the object contains it once. Every program gets a copy of its
//! own, of which the verifier keeps only the part that its system call can reach (`opt_remove_dead_code` in
//! `kernel/bpf/verifier.c`, Linux 5.1).

use aya_log_ebpf::debug;
use probe_ebpf::{
    miss::Miss,
    series::{BACKEND_COMMIT, META_COMMIT, Op, WAL_FSYNC},
    state::{COMPLETES_COMMIT, COMPLETES_META, COMPLETES_WAL_FSYNC, PRIMARY, Thread},
};

use super::classify_call::{PageWrite, classify};
use crate::{
    arguments::Arguments,
    clock::now_ns,
    fault_injection,
    lookup::{
        file_cache,
        process::{find_thread, is_target, target_state},
        sched_stats::sched_stats,
        vfs::{Dentry, Identity, open_file},
    },
    maps::{FAULT, HAS_SECONDARY, TRACE_BLOCK_IO, count},
    output::{histogram_update, io_owners, thread_waits},
};

/// Packs a system call and the program that is called for it, [`PRIMARY`] or its secondary, into one
/// register.
#[inline(always)]
pub const fn pack_call(op: Op, program: u32) -> u32 {
    (op as u32) << 8 | program
}

/// Reverses [`pack_call`].
#[inline(always)]
pub const fn unpack_call(call: u32) -> (Op, u32) {
    (Op::from_number(call >> 8), call & 0xff)
}

/// Processes the entry of a system call.
#[inline(always)]
pub fn enter(program: u32, op: Op, arguments: impl FnOnce() -> Arguments) {
    if is_target() {
        let Arguments { descriptor, buffer, bytes, offset } = arguments();
        enter_target(pack_call(op, program), descriptor, buffer, bytes, offset);
    } else if matches!(op, Op::Fdatasync | Op::Fsync) && program == PRIMARY && TRACE_BLOCK_IO.load() != 0 {
        // Other processes that make the file system's journal commit. A sync of an unreadable file is not
        // counted.
        if let Ok(Some(dentry)) = open_file(arguments().descriptor)
            && let Ok(Identity { dev, .. }) = dentry.identity()
        {
            io_owners::count_foreign_sync(dev);
        }
    }
}

#[inline(never)]
fn enter_target(call: u32, descriptor: u64, buffer: u64, bytes: u64, offset: u64) {
    let (op, program) = unpack_call(call);
    if let Err(miss) = try_enter(program, op, Arguments { descriptor, buffer, bytes, offset }) {
        debug!((), "op {}: missed, reason {}", op as u32, miss as u32);
        count(miss);
    }
}

#[inline(always)]
fn try_enter(program: u32, op: Op, arguments: Arguments) -> Result<(), Miss> {
    let mut known = None;
    if HAS_SECONDARY.load() != 0 {
        // The second of the two programs returns before it reads anything else.
        known = find_thread()?;
        if let Some(thread) = &mut known
            && !thread.record_enter(program)
        {
            return Ok(());
        }
    }
    let Some(dentry) = open_file(arguments.descriptor)? else { return Ok(()) };
    let Some(thread) = file_cache::lookup(op, arguments.descriptor, dentry, known)? else { return Ok(()) };
    if HAS_SECONDARY.load() != 0 {
        // The lookup may have added the thread.
        thread.record_enter(program);
    }
    // Read back from memory, so that the verifier does not follow each possible name of a file to the end.
    let index = file_cache::cache_index(arguments.descriptor);
    // SAFETY: a reference to an initialised field, so it is valid and aligned.
    let parsed_name = unsafe { (&raw const thread.files[index].parsed_name).read_volatile() };
    begin(op, arguments, dentry, thread, parsed_name)
}

/// Begins an operation of the running thread on a file.
#[inline(always)]
fn begin(
    op: Op,
    arguments: Arguments,
    dentry: Dentry,
    thread: &mut Thread,
    parsed_name: u32,
) -> Result<(), Miss> {
    thread.completes = 0;
    thread.descriptor = arguments.descriptor as u32;
    thread.offset = arguments.offset;
    let target = target_state(thread.target)?;
    let write = classify(op, arguments, dentry, thread, parsed_name, target);
    let started = start(thread);
    if let Some(PageWrite { backend, page }) = write {
        // After the start, so that the clock is read once.
        // SAFETY: the element exists as long as its map; bbolt writes a database under a lock.
        unsafe { (*backend).begin_write(page, arguments.bytes, thread.started_ns) };
    }
    started
}

/// Starts the clock, as the last step.
#[inline(always)]
fn start(thread: &mut Thread) -> Result<(), Miss> {
    let times = if FAULT.load() == 0 { 1 } else { fault_injection::times(thread)? };
    if times == 0 {
        return Ok(());
    }
    if thread.completes & COMPLETES_WAL_FSYNC != 0 {
        histogram_update::count_entered(WAL_FSYNC, thread.target, times);
    }
    if thread.completes & COMPLETES_META != 0 {
        histogram_update::count_entered(META_COMMIT, thread.target, 1);
    }
    if thread.completes & COMPLETES_COMMIT != 0 {
        histogram_update::count_entered(BACKEND_COMMIT, thread.target, times);
    }
    thread.requests = 0;
    thread.flushes = 0;
    thread_waits::clear(thread);
    let left_over = thread.started_ns != 0;
    let stats = sched_stats();
    thread.sched_stats = stats.unwrap_or_default();
    thread.started_ns = now_ns();
    stats?;
    if left_over { Err(Miss::EnterWithoutExit) } else { Ok(()) }
}
