//! The exit of a system call: measures the operation, and counts it and the composite events that it
//! completes.
//!
//! This is one function, not inlined, for the reason given in [`super::enter`].

use aya_log_ebpf::debug;
use probe_ebpf::{
    miss::Miss,
    series::{BACKEND_COMMIT, META_COMMIT, Op, WAL_FSYNC, WAL_ROTATION},
    state::{
        COMPLETES_COMMIT, COMPLETES_META, COMPLETES_ROTATION, COMPLETES_WAL_FSYNC,
        COMPLETES_WAL_FSYNC_ALWAYS, EndedEvent, NO_SERIES, Split, Thread,
    },
};

use super::enter::{pack_call, unpack_call};
use crate::{
    clock::now_ns,
    fault_injection::COMPLETES_TWICE,
    lookup::{
        process::{find_thread, is_target, target_state},
        sched_stats::sched_stats,
    },
    maps::{FAULT, HAS_SECONDARY, count},
    output::{histogram_update, slow_event::emit_slow_event, thread_waits},
};

/// Processes the return of a system call.
#[inline(always)]
pub fn exit(program: u32, op: Op, returned: i64) {
    if is_target() {
        exit_target(pack_call(op, program), returned);
    }
}

#[inline(never)]
fn exit_target(call: u32, returned: i64) {
    let (op, program) = unpack_call(call);
    if let Err(miss) = try_exit(program, op, returned) {
        debug!((), "op {}: missed, reason {}", op as u32, miss as u32);
        count(miss);
    }
}

#[inline(always)]
fn try_exit(program: u32, op: Op, returned: i64) -> Result<(), Miss> {
    let Some(thread) = find_thread()? else { return Ok(()) };
    if HAS_SECONDARY.load() != 0 && !thread.record_exit(program) {
        return Ok(());
    }
    let started_ns = thread.started_ns;
    if started_ns == 0 {
        // The entry records no write to a socket, but it records every sync, on any file.
        return if op.returns_bytes() { Ok(()) } else { Err(Miss::ExitWithoutEnter) };
    }
    let now_ns = now_ns();
    thread.started_ns = 0;
    if thread.series == NO_SERIES {
        return Ok(());
    }
    let failed = returned < 0;
    let bytes = if op.returns_bytes() && !failed { returned as u64 } else { 0 };
    let latency_ns = now_ns.saturating_sub(started_ns);
    let split = match sched_stats() {
        Ok(after) => {
            thread_waits::finish(thread, after.run_delay_ns);
            Split::of(latency_ns, thread.sched_stats, after)
        }
        // The entry has counted this miss.
        Err(_) => Split::default(),
    };
    thread.ended = EndedEvent { latency_ns, slot: histogram_update::slot_of(latency_ns), bytes, split };
    histogram_update::add(thread.series, thread);
    let errno = if failed { returned.unsigned_abs() as u32 } else { 0 };
    if failed {
        histogram_update::count_error(thread.target, thread.series, errno);
    }
    if histogram_update::is_slow(latency_ns)
        && let Err(miss) = emit_slow_event(op, thread, started_ns, errno)
    {
        count(miss);
    }
    if thread.completes != 0 { complete(thread, failed, now_ns) } else { Ok(()) }
}

/// Counts the composite events that the operation completes.
#[inline(always)]
fn complete(thread: &mut Thread, failed: bool, now_ns: u64) -> Result<(), Miss> {
    let target = target_state(thread.target)?;
    if thread.completes & COMPLETES_WAL_FSYNC != 0 {
        let counts = !failed || thread.completes & COMPLETES_WAL_FSYNC_ALWAYS != 0;
        reconcile(WAL_FSYNC, thread, counts);
    }
    if thread.completes & COMPLETES_ROTATION != 0 {
        // SAFETY: the element exists as long as its map; etcd rotates under the WAL's lock.
        let cut_started_ns = unsafe { &mut (*target).cut_started_ns };
        if *cut_started_ns != 0 {
            end_composite(thread, now_ns.saturating_sub(*cut_started_ns));
            *cut_started_ns = 0;
            histogram_update::add(WAL_ROTATION, thread);
        }
    }
    if thread.completes & (COMPLETES_META | COMPLETES_COMMIT) != 0 {
        // SAFETY: the element exists as long as its map; bbolt commits under a lock. A database with a
        // transaction in progress keeps its index.
        let backends = unsafe { &mut (*target).backends };
        let backend = &mut backends[thread.backend as usize % backends.len()];
        let (series, latency_ns) = if thread.completes & COMPLETES_META != 0 {
            (META_COMMIT, backend.end_meta(now_ns))
        } else {
            (BACKEND_COMMIT, backend.end_commit(now_ns))
        };
        if failed {
            backend.reset();
        }
        end_composite(thread, latency_ns);
        reconcile(series, thread, !failed);
    }
    Ok(())
}

/// Stores the end of an event that spans more than one system call, whose split is unknown.
#[inline(always)]
fn end_composite(thread: &mut Thread, latency_ns: u64) {
    thread.ended.latency_ns = latency_ns;
    thread.ended.slot = histogram_update::slot_of(latency_ns);
    // One by one: otherwise LLVM calls a `memset` that clears byte by byte.
    // SAFETY: references to fields, so they are valid and aligned.
    unsafe {
        (&raw mut thread.ended.bytes).write_volatile(0);
        (&raw mut thread.ended.split.on_cpu_ns).write_volatile(0);
        (&raw mut thread.ended.split.run_queue_ns).write_volatile(0);
    }
}

/// Counts an event that etcd counts, too; an event that failed is subtracted from the entered ones instead.
#[inline(always)]
fn reconcile(series: u32, thread: &Thread, counts: bool) {
    let twice = FAULT.load() != 0 && thread.completes & COMPLETES_TWICE != 0;
    if counts {
        histogram_update::add(series, thread);
        if twice {
            histogram_update::add(series, thread);
        }
    } else {
        histogram_update::count_entered(series, thread.target, if twice { u64::MAX - 1 } else { u64::MAX });
    }
}
