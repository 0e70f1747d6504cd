//! Emits an operation that took longer than the threshold to the daemon: one event, when the operation ends.

use probe_ebpf::{
    miss::Miss,
    series::Op,
    state::{NO_OFFSET, SlowEvent, Thread, WAITS},
};

use super::thread_waits::thread_waits;
use crate::{
    clock::now_ns,
    lookup::vfs,
    maps::{SLOW_BUDGET, SLOW_EVENTS, atomic_add},
};

/// Events per second. An operation above the default threshold takes its thread at least 10 ms, so this is
/// enough for five threads that make only such operations; with a lower threshold, the limit protects the
/// ring from overflow.
const PER_SECOND: u64 = 500;

/// Emits the operation that has just ended.
#[inline(always)]
pub fn emit_slow_event(op: Op, thread: &Thread, started_ns: u64, errno: u32) -> Result<(), Miss> {
    if !is_within_budget() {
        return Err(Miss::SlowLimited);
    }
    let Some(mut entry) = SLOW_EVENTS.reserve::<SlowEvent>(0) else { return Err(Miss::SlowRingFull) };
    let event = entry.as_mut_ptr();
    let offset = match op {
        Op::Pwrite64 => thread.offset,
        // The file offset is already after the written bytes.
        Op::Write => {
            vfs::file_offset(thread.descriptor).map_or(NO_OFFSET, |end| end.wrapping_sub(thread.ended.bytes))
        }
        _ => NO_OFFSET,
    };
    // SAFETY: the ring has reserved space for one event, which is written before it is submitted.
    unsafe {
        (*event).started_ns = started_ns;
        (*event).latency_ns = thread.ended.latency_ns;
        (*event).split = thread.ended.split;
        (*event).bytes = thread.ended.bytes;
        (*event).offset = offset;
        (*event).inode = thread.inode;
        (*event).target = thread.target;
        (*event).series = thread.series;
        (*event).thread = thread.index;
        (*event).thread_id = thread.key.pid_tgid as u32;
        (*event).requests = thread.requests;
        (*event).flushes = thread.flushes;
        (*event).errno = errno;
        match thread_waits(thread) {
            Some(waits) => {
                (*event).used = (*waits).used;
                for n in 0..WAITS {
                    (*event).waits[n] = (*waits).waits[n];
                }
            }
            // The waits keep the ring's previous content, which the daemon does not read.
            None => (*event).used = 0,
        }
    }
    entry.submit(0);
    Ok(())
}

/// Returns whether another event may be emitted in this second.
#[inline(always)]
fn is_within_budget() -> bool {
    let Some(budget) = SLOW_BUDGET.get_ptr_mut(0) else { return false };
    let second = now_ns() >> 30;
    // SAFETY: the element exists as long as its map. A race between threads may allow one event more or less.
    unsafe {
        if (*budget)[0] != second {
            (*budget)[0] = second;
            (*budget)[1] = 0;
        }
        atomic_add(&raw mut (*budget)[1], 1);
        (*budget)[1] <= PER_SECOND
    }
}
