//! Tells the daemon of an operation that took longer than the threshold: one record, when it is over.

use probe_ebpf::{
    miss::Miss,
    series::Op,
    state::{NO_OFFSET, SlowRecord, Thread, WAITS},
};

use crate::{
    file,
    maps::{SLOW, SLOW_BUDGET, atomic_add},
    operation::now_ns,
    switch,
};

/// Records a second. An operation slower than the default threshold takes its thread 10 ms at least, so that these are the
/// operations of five threads that do nothing else; with a lower one it keeps the ring from being flooded.
const PER_SECOND: u64 = 500;

/// Sends the record of an operation that has just ended.
#[inline(always)]
pub fn tell(op: Op, thread: &Thread, started_ns: u64, errno: u32) -> Result<(), Miss> {
    if !is_within_budget() {
        return Err(Miss::SlowLimited);
    }
    let Some(mut entry) = SLOW.reserve::<SlowRecord>(0) else { return Err(Miss::SlowRingFull) };
    let record = entry.as_mut_ptr();
    let offset = match op {
        Op::Pwrite64 => thread.offset,
        // The position is behind what was written by now.
        Op::Write => {
            file::position(thread.descriptor).map_or(NO_OFFSET, |end| end.wrapping_sub(thread.ended.bytes))
        }
        _ => NO_OFFSET,
    };
    // SAFETY: the ring has given us room for one record, which is written before it is submitted.
    unsafe {
        (*record).started_ns = started_ns;
        (*record).latency_ns = thread.ended.latency_ns;
        (*record).split = thread.ended.split;
        (*record).bytes = thread.ended.bytes;
        (*record).offset = offset;
        (*record).inode = thread.inode;
        (*record).target = thread.target;
        (*record).series = thread.series;
        (*record).thread = thread.index;
        (*record).thread_id = thread.key.pid_tgid as u32;
        (*record).requests = thread.requests;
        (*record).flushes = thread.flushes;
        (*record).errno = errno;
        match switch::waits(thread) {
            Some(waits) => {
                (*record).used = (*waits).used;
                for n in 0..WAITS {
                    (*record).waits[n] = (*waits).waits[n];
                }
            }
            // The waits stay what the ring held there before, which nobody looks at.
            None => (*record).used = 0,
        }
    }
    entry.submit(0);
    Ok(())
}

/// Returns whether another record may be sent in this second.
#[inline(always)]
fn is_within_budget() -> bool {
    let Some(budget) = SLOW_BUDGET.get_ptr_mut(0) else { return false };
    let second = now_ns() >> 30;
    // SAFETY: the element lives as long as its map. Threads that race may get one record more or less between them.
    unsafe {
        if (*budget)[0] != second {
            (*budget)[0] = second;
            (*budget)[1] = 0;
        }
        atomic_add(&raw mut (*budget)[1], 1);
        (*budget)[1] <= PER_SECOND
    }
}
