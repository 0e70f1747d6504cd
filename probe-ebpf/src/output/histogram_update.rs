//! Adds events to the histograms of a target, and counts failed operations.

use probe_ebpf::{
    histogram::{SLOTS, slot},
    miss::Miss,
    series::SERIES,
    state::{EndedEvent, ErrorKey, Record, Split, Thread},
};

use aya_ebpf::bindings::BPF_NOEXIST;

use crate::{
    clock::now_ns,
    maps::{ERRORS, HISTOGRAMS, RECORDING, RECORDS, SLOW_THRESHOLD_NS, THREAD_STATE, atomic_add, count},
};

/// Returns whether an operation of this latency is emitted individually.
#[inline(always)]
pub fn is_slow(latency_ns: u64) -> bool {
    latency_ns > SLOW_THRESHOLD_NS.load()
}

/// Adds the event that a thread has just ended to a series of its target.
#[inline(always)]
pub fn add(series: u32, thread: &Thread) {
    add_ended(series.into(), thread.index.into());
}

/// Does the same by the index of the thread. Always returns 0.
///
/// A BPF global function, so the verifier checks it once rather than at every call (Linux 5.6); before Linux
/// 5.12 such functions take numbers only.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_ended(series: u64, thread: u64) -> u64 {
    if let Some(thread) = THREAD_STATE.get_ptr_mut(thread as u32) {
        // SAFETY: the element exists as long as its map, and only this thread uses its own.
        add_event(series as u32, unsafe { &*thread });
    }
    0
}

#[inline(always)]
fn add_event(series: u32, thread: &Thread) {
    let EndedEvent { latency_ns, slot, bytes, split: Split { on_cpu_ns, run_queue_ns } } = thread.ended;
    let Some(histogram) = HISTOGRAMS.get_ptr_mut(thread.target * SERIES + series) else { return };
    let slot = if slot < SLOTS as u64 { slot as usize } else { SLOTS - 1 };
    // SAFETY: the element exists as long as its map, its fields are aligned `u64`s, and the slot is in range.
    unsafe {
        // The slot before the sum: the daemon reads in the opposite order, so its sum never includes an event
        // that its slots lack.
        atomic_add((&raw mut (*histogram).slots).cast::<u64>().add(slot), 1);
        atomic_add(&raw mut (*histogram).sum_ns, latency_ns);
        // The sum before its parts, for the same reason.
        if on_cpu_ns > 0 {
            atomic_add(&raw mut (*histogram).on_cpu_ns, on_cpu_ns);
        }
        if run_queue_ns > 0 {
            atomic_add(&raw mut (*histogram).run_queue_ns, run_queue_ns);
        }
        if is_slow(latency_ns) {
            let slow = &raw mut (*histogram).slow;
            atomic_add(&raw mut (*slow).events, 1);
            atomic_add(&raw mut (*slow).sum_ns, latency_ns);
            // A value that is known to be zero must not be added: LLVM turns that into an atomic `or`, which
            // Linux has only since 5.12.
            if on_cpu_ns > 0 {
                atomic_add(&raw mut (*slow).on_cpu_ns, on_cpu_ns);
            }
            if run_queue_ns > 0 {
                atomic_add(&raw mut (*slow).run_queue_ns, run_queue_ns);
            }
        }
        if bytes > 0 {
            atomic_add(&raw mut (*histogram).bytes, bytes);
        }
        if latency_ns > (*histogram).max_ns {
            (*histogram).max_ns = latency_ns;
        }
    }
    if RECORDING.load() != 0 {
        record(series, thread.target, latency_ns);
    }
}

/// Returns the slot of a latency.
///
/// A BPF global function; inlined, the verifier would follow each path through it to the end of the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn slot_of(latency_ns: u64) -> u64 {
    slot(latency_ns) as u64
}

/// Counts `by` events of a reconciled series as begun; wraps, so that a failed event can be subtracted.
#[inline(always)]
pub fn count_entered(series: u32, target: u32, by: u64) {
    if let Some(histogram) = HISTOGRAMS.get_ptr_mut(target * SERIES + series) {
        // SAFETY: the element exists as long as its map, and its fields are aligned `u64`s.
        unsafe { atomic_add(&raw mut (*histogram).entered, by) };
    }
}

/// Counts a failed operation.
#[inline(always)]
pub fn count_error(target: u32, series: u32, errno: u32) {
    let key = ErrorKey { target, series, errno };
    if let Some(counter) = ERRORS.get_ptr_mut(key) {
        // SAFETY: only the daemon removes elements, after their target has ended; `u64` elements are aligned.
        unsafe { atomic_add(counter, 1) };
    } else if ERRORS.insert(key, 1, BPF_NOEXIST.into()).is_err() {
        count(Miss::ErrorsFull);
    }
}

#[inline(always)]
fn record(series: u32, target: u32, latency_ns: u64) {
    let record = Record { recorded_ns: now_ns(), latency_ns, target, series };
    if RECORDS.output::<Record>(record, 0).is_err() {
        count(Miss::RingFull);
    }
}
