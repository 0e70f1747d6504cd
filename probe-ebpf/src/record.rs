//! Adds a latency to its histogram.

use probe_ebpf::{
    histogram::{SLOTS, slot},
    miss::Miss,
    series::SERIES,
    state::{Ended, ErrorKey, Record, Split, Thread},
};

use aya_ebpf::bindings::BPF_NOEXIST;

use crate::{
    maps::{ERRORS, HISTOGRAMS, RECORDING, RECORDS, SLOW_NS, THREAD_STATE, atomic_add, count},
    operation::now_ns,
};

/// Returns whether a latency is to be told of by itself.
#[inline(always)]
pub fn is_slow(latency_ns: u64) -> bool {
    latency_ns > SLOW_NS.load()
}

/// Counts what a thread has just ended in one series of its target.
#[inline(always)]
pub fn add(series: u32, thread: &Thread) {
    add_ended(series.into(), thread.index.into());
}

/// Does this, by the thread's position; returns nothing: 0. A global function, which the verifier looks at once for all that may
/// end at once (Linux 5.6); those take numbers only before Linux 5.12.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_ended(series: u64, thread: u64) -> u64 {
    if let Some(thread) = THREAD_STATE.get_ptr_mut(thread as u32) {
        // SAFETY: elements live as long as their map, and only this thread uses its own.
        count_ended(series as u32, unsafe { &*thread });
    }
    0
}

#[inline(always)]
fn count_ended(series: u32, thread: &Thread) {
    let Ended { latency_ns, slot, bytes, split: Split { on_cpu_ns, run_queue_ns } } = thread.ended;
    let Some(histogram) = HISTOGRAMS.get_ptr_mut(thread.target * SERIES + series) else { return };
    let slot = if slot < SLOTS as u64 { slot as usize } else { SLOTS - 1 };
    // SAFETY: the element lives as long as its map, its fields are aligned `u64`s, and the slot is one of them.
    unsafe {
        // The slot before the sum: the daemon reads in the other order, so its sum never holds an event that its
        // slots lack.
        atomic_add((&raw mut (*histogram).slots).cast::<u64>().add(slot), 1);
        atomic_add(&raw mut (*histogram).sum_ns, latency_ns);
        // And the whole before its parts, likewise.
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
            // What is known to be nothing must not be added: LLVM makes an atomic `or` of that, which Linux has since 5.12.
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

/// Returns the slot of a latency: a global function, for the verifier would follow each way through it to the end of the program.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn slot_of(latency_ns: u64) -> u64 {
    slot(latency_ns) as u64
}

/// Counts `by` events of a reconciled series as begun; wraps, so that a failed one can be taken back.
#[inline(always)]
pub fn enter(series: u32, target: u32, by: u64) {
    if let Some(histogram) = HISTOGRAMS.get_ptr_mut(target * SERIES + series) {
        // SAFETY: the element lives as long as its map, and its fields are aligned `u64`s.
        unsafe { atomic_add(&raw mut (*histogram).entered, by) };
    }
}

/// Counts an operation that failed.
#[inline(always)]
pub fn error(target: u32, series: u32, errno: u32) {
    let key = ErrorKey { target, series, errno };
    if let Some(counter) = ERRORS.get_ptr_mut(key) {
        // SAFETY: elements are removed by the daemon only, once their target is gone; `u64` elements are aligned.
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
