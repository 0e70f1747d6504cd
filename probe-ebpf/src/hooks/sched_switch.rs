//! Records the waits of threads, to the nanosecond: a hook on every context switch of the host, loaded with
//! `--causes exact` only.
//!
//! The stack is taken when a thread of etcd's leaves its CPU during an operation. The blocked time is known
//! only when the thread leaves its CPU again or the operation ends: before that, its `run_delay` does not
//! include the wait in the run queue.

use aya_ebpf::{
    macros::raw_tracepoint,
    programs::{RawTracePointContext, tracing::StackIdContext},
};
use probe_ebpf::{
    miss::Miss,
    state::{NO_STACK, ThreadKey},
};

use crate::{
    clock::now_ns,
    lookup::{
        kernel_memory::{read, task},
        process::{find_thread, is_target, is_target_task},
    },
    maps::{STACK_TRACES, THREAD_BY_KEY, THREAD_STATE},
    offset,
    output::thread_waits::{add_last, thread_waits},
};

/// `sched:sched_switch(bool preempt, task_struct *prev, task_struct *next, …)`; since Linux 5.18 followed by
/// the state.
#[raw_tracepoint(tracepoint = "sched_switch")]
pub fn sched_switch(ctx: RawTracePointContext) -> i32 {
    if is_target() {
        // A wait of which a field cannot be read stays unsampled.
        let _ = switch_out(&ctx, ctx.arg::<u64>(0) & 0xff != 0);
    }
    let next = ctx.arg::<*const u8>(2);
    if is_target_task(next) {
        // A wait of which a field cannot be read stays unsampled.
        let _ = switch_in(next);
    }
    0
}

/// Records that the running thread leaves its CPU.
#[inline(always)]
fn switch_out(ctx: &RawTracePointContext, preempted: bool) -> Result<(), Miss> {
    let Some(thread) = find_thread()? else { return Ok(()) };
    let Some(waits) = thread_waits(thread) else { return Ok(()) };
    if thread.started_ns == 0 {
        return Ok(());
    }
    // SAFETY: the element exists as long as its map, and only this thread uses its own.
    let waits = unsafe { &mut *waits };
    let run_delay_ns = read(task(), offset!(task_run_delay))?;
    add_last(waits, run_delay_ns);
    if preempted || read::<u32>(task(), offset!(task_state))? == 0 {
        return Ok(());
    }
    waits.switched_out_stack = match ctx.get_stackid(&STACK_TRACES, 0) {
        Ok(stack) => stack as u32,
        Err(_) => NO_STACK,
    };
    waits.switched_out_run_delay_ns = run_delay_ns;
    waits.switched_out_ns = now_ns();
    Ok(())
}

/// Records that another thread gets the CPU.
#[inline(always)]
fn switch_in(next: *const u8) -> Result<(), Miss> {
    let tgid: u32 = read(next, offset!(task_tgid))?;
    let pid: u32 = read(next, offset!(task_pid))?;
    let key = ThreadKey {
        pid_tgid: u64::from(tgid) << 32 | u64::from(pid),
        started_ns: read(next, offset!(task_start))?,
    };
    // SAFETY: only the daemon removes elements, after their thread has ended; this one is about to run.
    let Some(index) = (unsafe { THREAD_BY_KEY.get(key) }) else { return Ok(()) };
    let Some(thread) = THREAD_STATE.get_ptr_mut(*index) else { return Ok(()) };
    // SAFETY: the element exists as long as its map; the thread that it belongs to is not running yet.
    let thread = unsafe { &*thread };
    if thread.started_ns != 0
        && let Some(waits) = thread_waits(thread)
    {
        // SAFETY: the element exists as long as its map; the thread that it belongs to is not running yet.
        let waits = unsafe { &mut *waits };
        if waits.switched_out_ns != 0 && waits.off_cpu_ns == 0 {
            waits.off_cpu_ns = now_ns().saturating_sub(waits.switched_out_ns);
        }
    }
    Ok(())
}
