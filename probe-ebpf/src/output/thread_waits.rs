//! Updates the waits of a thread in its operation in flight; with `--causes exact` only.

use probe_ebpf::{
    offsets::ABSENT,
    state::{Thread, ThreadWaits, WAITS, Wait},
};

use crate::{
    maps::{EXACT_CAUSES, THREAD_WAITS},
    offset,
};

/// Returns the waits of a thread, if they are recorded.
#[inline(always)]
pub fn thread_waits(thread: &Thread) -> Option<*mut ThreadWaits> {
    if EXACT_CAUSES.load() == 0 || offset!(task_run_delay) == ABSENT as usize {
        return None;
    }
    THREAD_WAITS.get_ptr_mut(thread.index)
}

/// Clears the waits at the start of an operation.
#[inline(always)]
pub fn clear(thread: &Thread) {
    if let Some(waits) = thread_waits(thread) {
        // SAFETY: the element exists as long as its map, and only this thread uses its own.
        unsafe { *waits = ThreadWaits::default() };
    }
}

/// Adds the last wait at the end of an operation; `run_delay_ns` is the thread's time in the run queue so
/// far.
#[inline(always)]
pub fn finish(thread: &Thread, run_delay_ns: u64) {
    if let Some(waits) = thread_waits(thread) {
        // SAFETY: the element exists as long as its map, and only this thread uses its own.
        add_last(unsafe { &mut *waits }, run_delay_ns);
    }
}

/// Adds the last wait, once the part of it that was spent in the run queue is known.
#[inline(always)]
pub fn add_last(waits: &mut ThreadWaits, run_delay_ns: u64) {
    if waits.off_cpu_ns == 0 {
        return;
    }
    let queued_ns = run_delay_ns.saturating_sub(waits.switched_out_run_delay_ns);
    let blocked_us = (waits.off_cpu_ns.saturating_sub(queued_ns) / 1000) as u32;
    let stack = waits.switched_out_stack;
    waits.off_cpu_ns = 0;
    waits.switched_out_ns = 0;
    for n in 0..WAITS {
        let wait = &mut waits.waits[n];
        let is_free = n as u32 >= waits.used;
        if is_free {
            *wait = Wait { stack, blocked_us };
            waits.used = n as u32 + 1;
            return;
        }
        if wait.stack == stack || n == WAITS - 1 {
            wait.blocked_us = wait.blocked_us.saturating_add(blocked_us);
            return;
        }
    }
}
