//! From the entry of a system call to its return: what is remembered in between, and what ends with it.
//!
//! Both ways are one function each, not inlined: the object holds them once. Every program gets a copy of its own, of which the
//! verifier leaves what its system call can reach (`opt_remove_dead_code` in `kernel/bpf/verifier.c`, Linux 5.1).

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_log_ebpf::debug;
use probe_ebpf::{
    miss::Miss,
    series::{BACKEND_COMMIT, META_COMMIT, Op, WAL_FSYNC, WAL_ROTATION},
    state::{
        ENDS_COMMIT, ENDS_META, ENDS_ROTATION, ENDS_WAL_FSYNC, ENDS_WAL_FSYNC_ALWAYS, Ended, FIRST, Split,
        Thread, UNKNOWN,
    },
};

use crate::{
    account::account,
    beginning, block,
    fault::ENDS_TWICE,
    file::{Identity, open_file},
    known_file,
    maps::{BLOCK, FAULT, SPARES, count},
    record, slow, switch,
    target::{is_target, known_thread, target_state},
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

/// A system call and which program sees it, [`FIRST`] or [`SPARE`], in one register.
#[inline(always)]
const fn call(op: Op, program: u32) -> u32 {
    (op as u32) << 8 | program
}

/// A system call begins.
#[inline(always)]
pub fn enter(program: u32, op: Op, arguments: impl FnOnce() -> Arguments) {
    if is_target() {
        let Arguments { descriptor, buffer, bytes, offset } = arguments();
        entered(call(op, program), descriptor, buffer, bytes, offset);
    } else if matches!(op, Op::Fdatasync | Op::Fsync) && program == FIRST && BLOCK.load() != 0 {
        // Who else makes the file system's journal commit; what cannot be read is nobody's.
        if let Ok(Some(dentry)) = open_file(arguments().descriptor)
            && let Ok(Identity { dev, .. }) = dentry.identity()
        {
            block::foreign_sync(dev);
        }
    }
}

/// A system call returns.
#[inline(always)]
pub fn exit(program: u32, op: Op, returned: i64) {
    if is_target() {
        exited(call(op, program), returned);
    }
}

#[inline(never)]
fn entered(call: u32, descriptor: u64, buffer: u64, bytes: u64, offset: u64) {
    let (op, program) = (Op::numbered(call >> 8), call & 0xff);
    if let Err(miss) = try_enter(program, op, Arguments { descriptor, buffer, bytes, offset }) {
        debug!((), "op {}: missed, reason {}", op as u32, miss as u32);
        count(miss);
    }
}

#[inline(never)]
fn exited(call: u32, returned: i64) {
    let (op, program) = (Op::numbered(call >> 8), call & 0xff);
    if let Err(miss) = try_exit(program, op, returned) {
        debug!((), "op {}: missed, reason {}", op as u32, miss as u32);
        count(miss);
    }
}

#[inline(always)]
fn try_enter(program: u32, op: Op, arguments: Arguments) -> Result<(), Miss> {
    let mut known = None;
    if SPARES.load() != 0 {
        // Before anything is looked at, for all but the first of both.
        known = known_thread()?;
        if let Some(thread) = &mut known
            && !thread.begins(program)
        {
            return Ok(());
        }
    }
    let Some(dentry) = open_file(arguments.descriptor)? else { return Ok(()) };
    let Some(thread) = known_file::know(op, arguments.descriptor, dentry, known)? else { return Ok(()) };
    if SPARES.load() != 0 {
        // It may be known only now.
        thread.begins(program);
    }
    // Read back from memory, so that the verifier does not follow every name that a file may have to the end.
    // SAFETY: a reference to what has just been written.
    let named =
        unsafe { (&raw const thread.files[known_file::place(arguments.descriptor)].named).read_volatile() };
    beginning::begin(op, arguments, dentry, thread, named)
}

#[inline(always)]
fn try_exit(program: u32, op: Op, returned: i64) -> Result<(), Miss> {
    let Some(thread) = known_thread()? else { return Ok(()) };
    if SPARES.load() != 0 && !thread.ends(program) {
        return Ok(());
    }
    let started_ns = thread.started_ns;
    if started_ns == 0 {
        // Writes to sockets are not remembered; syncs are, whatever they sync.
        return if op.returns_bytes() { Ok(()) } else { Err(Miss::ExitWithoutEnter) };
    }
    let now_ns = now_ns();
    thread.started_ns = 0;
    if thread.series == UNKNOWN {
        return Ok(());
    }
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
    thread.ended = Ended { latency_ns, slot: record::slot_of(latency_ns), bytes, split };
    record::add(thread.series, thread);
    let errno = if failed { returned.unsigned_abs() as u32 } else { 0 };
    if failed {
        record::error(thread.target, thread.series, errno);
    }
    if record::is_slow(latency_ns)
        && let Err(miss) = slow::tell(op, thread, started_ns, errno)
    {
        count(miss);
    }
    if thread.ends != 0 { end(thread, failed, now_ns) } else { Ok(()) }
}

/// Counts what ended together with the operation.
#[inline(always)]
fn end(thread: &mut Thread, failed: bool, now_ns: u64) -> Result<(), Miss> {
    let target = target_state(thread.target)?;
    if thread.ends & ENDS_WAL_FSYNC != 0 {
        let counts = !failed || thread.ends & ENDS_WAL_FSYNC_ALWAYS != 0;
        reconcile(WAL_FSYNC, thread, counts);
    }
    if thread.ends & ENDS_ROTATION != 0 {
        // SAFETY: the element lives as long as its map; etcd rotates under the WAL's lock.
        let cut_started_ns = unsafe { &mut (*target).cut_started_ns };
        if *cut_started_ns != 0 {
            end_whole(thread, now_ns.saturating_sub(*cut_started_ns));
            *cut_started_ns = 0;
            record::add(WAL_ROTATION, thread);
        }
    }
    if thread.ends & (ENDS_META | ENDS_COMMIT) != 0 {
        // SAFETY: the element lives as long as its map; bbolt commits under a lock. No database with a transaction in progress
        // loses its position.
        let backends = unsafe { &mut (*target).backends };
        let backend = &mut backends[thread.backend as usize % backends.len()];
        let (series, latency_ns) = if thread.ends & ENDS_META != 0 {
            (META_COMMIT, backend.end_meta(now_ns))
        } else {
            (BACKEND_COMMIT, backend.end_commit(now_ns))
        };
        if failed {
            backend.reset();
        }
        end_whole(thread, latency_ns);
        reconcile(series, thread, !failed);
    }
    Ok(())
}

/// Notes the end of something longer than one system call, of which no parts are known.
#[inline(always)]
fn end_whole(thread: &mut Thread, latency_ns: u64) {
    thread.ended.latency_ns = latency_ns;
    thread.ended.slot = record::slot_of(latency_ns);
    // One by one, or LLVM calls a `memset` that clears byte by byte.
    // SAFETY: references.
    unsafe {
        (&raw mut thread.ended.bytes).write_volatile(0);
        (&raw mut thread.ended.split.on_cpu_ns).write_volatile(0);
        (&raw mut thread.ended.split.run_queue_ns).write_volatile(0);
    }
}

/// Counts an event that etcd counts, too; one that failed is taken back instead.
#[inline(always)]
fn reconcile(series: u32, thread: &Thread, counts: bool) {
    let twice = FAULT.load() != 0 && thread.ends & ENDS_TWICE != 0;
    if counts {
        record::add(series, thread);
        if twice {
            record::add(series, thread);
        }
    } else {
        record::enter(series, thread.target, if twice { u64::MAX - 1 } else { u64::MAX });
    }
}

/// Returns ns of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and may be called from any program.
    unsafe { bpf_ktime_get_ns() }
}
