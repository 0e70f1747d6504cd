//! What a thread waits for, to the nanosecond: a hook on every switch of the host's scheduler, with `--causes exact` only.
//!
//! The stack is taken when a thread of etcd's leaves its processor within an operation. How long it was blocked is known
//! when it leaves again or its operation ends: until then its own `run_delay` does not yet hold the wait for a processor.

use aya_ebpf::{
    macros::raw_tracepoint,
    programs::{RawTracePointContext, tracing::StackIdContext},
};
use probe_ebpf::{
    layout::ABSENT,
    miss::Miss,
    state::{NO_STACK, Thread, ThreadKey, WAITS, Wait, Waits},
};

use crate::{
    maps::{EXACT, STACKS, THREAD_BY_KEY, THREAD_STATE, THREAD_WAITS},
    offset,
    operation::now_ns,
    target::{is_called_like_target, is_target, known_thread, read, task},
};

/// `sched:sched_switch(bool preempt, task_struct *prev, task_struct *next, …)`; since Linux 5.18 with the state behind.
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn sched_switch(ctx: RawTracePointContext) -> i32 {
    if is_target() {
        let _ = leave(&ctx, ctx.arg::<u64>(0) & 0xff != 0); // What cannot be read stays unsampled.
    }
    let next = ctx.arg::<*const u8>(2);
    if is_called_like_target(next) {
        let _ = arrive(next); // As above.
    }
    0
}

/// The running thread leaves its processor.
#[inline(always)]
fn leave(ctx: &RawTracePointContext, preempted: bool) -> Result<(), Miss> {
    let Some(thread) = known_thread()? else { return Ok(()) };
    let Some(waits) = waits(thread) else { return Ok(()) };
    if thread.started_ns == 0 {
        return Ok(());
    }
    // SAFETY: as above.
    let waits = unsafe { &mut *waits };
    let run_delay_ns = read(task(), offset!(task_run_delay))?;
    settle(waits, run_delay_ns);
    if preempted || read::<u32>(task(), offset!(task_state))? == 0 {
        return Ok(());
    }
    waits.left_stack = match ctx.get_stackid(&STACKS, 0) {
        Ok(stack) => stack as u32,
        Err(_) => NO_STACK,
    };
    waits.left_run_delay_ns = run_delay_ns;
    waits.left_ns = now_ns();
    Ok(())
}

/// Another thread gets the processor.
#[inline(always)]
fn arrive(next: *const u8) -> Result<(), Miss> {
    let tgid: u32 = read(next, offset!(task_tgid))?;
    let pid: u32 = read(next, offset!(task_pid))?;
    let key = ThreadKey {
        pid_tgid: u64::from(tgid) << 32 | u64::from(pid),
        started_ns: read(next, offset!(task_start))?,
    };
    // SAFETY: elements are removed by the daemon only, once their thread is gone; this one is about to run.
    let Some(index) = (unsafe { THREAD_BY_KEY.get(key) }) else { return Ok(()) };
    let Some(thread) = THREAD_STATE.get_ptr_mut(*index) else { return Ok(()) };
    // SAFETY: elements live as long as their map; the thread is not running yet.
    let thread = unsafe { &*thread };
    if thread.started_ns != 0
        && let Some(waits) = waits(thread)
    {
        // SAFETY: as above.
        let waits = unsafe { &mut *waits };
        if waits.left_ns != 0 && waits.away_ns == 0 {
            waits.away_ns = now_ns().saturating_sub(waits.left_ns);
        }
    }
    Ok(())
}

/// Returns what a thread waited for, if that is recorded.
#[inline(always)]
pub fn waits(thread: &Thread) -> Option<*mut Waits> {
    if EXACT.load() == 0 || offset!(task_run_delay) == ABSENT as usize {
        return None;
    }
    THREAD_WAITS.get_ptr_mut(thread.index)
}

/// An operation begins: nothing was waited for yet.
#[inline(always)]
pub fn begin(thread: &Thread) {
    if let Some(waits) = waits(thread) {
        // SAFETY: elements live as long as their map, and only this thread uses its own.
        unsafe { *waits = Waits::default() };
    }
}

/// An operation ends, with this account of the wait for a processor.
#[inline(always)]
pub fn end(thread: &Thread, run_delay_ns: u64) {
    if let Some(waits) = waits(thread) {
        // SAFETY: elements live as long as their map, and only this thread uses its own.
        settle(unsafe { &mut *waits }, run_delay_ns);
    }
}

/// Adds the last wait, now that it is known how much of it was for a processor.
#[inline(always)]
fn settle(waits: &mut Waits, run_delay_ns: u64) {
    if waits.away_ns == 0 {
        return;
    }
    let queued_ns = run_delay_ns.saturating_sub(waits.left_run_delay_ns);
    let blocked_us = (waits.away_ns.saturating_sub(queued_ns) / 1000) as u32;
    let stack = waits.left_stack;
    waits.away_ns = 0;
    waits.left_ns = 0;
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
