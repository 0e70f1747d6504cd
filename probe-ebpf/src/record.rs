//! Adds a latency to its histogram.

use probe_ebpf::{
    histogram::{Histogram, slot},
    miss::Miss,
    series::SERIES,
    state::{ErrorKey, Record, Split},
};

use aya_ebpf::bindings::BPF_NOEXIST;

use crate::maps::{ERRORS, HISTOGRAMS, RECORDING, RECORDS, SLOW_NS, atomic_add, count};

/// What was measured.
#[derive(Clone, Copy)]
pub struct Measured {
    pub target: u32,
    pub entered_ns: u64,
    pub latency_ns: u64,
    pub bytes: u64,
    pub split: Split,
}

impl Measured {
    /// Returns whether this is to be told of by itself.
    #[inline(always)]
    pub fn is_slow(&self) -> bool {
        self.latency_ns > SLOW_NS.load()
    }
}

/// Counts a latency in one series of its target.
#[inline(always)]
pub fn add(series: u32, measured: Measured) {
    let Some(histogram) = histogram(measured.target, series) else { return };
    let latency_ns = measured.latency_ns;
    let Split { on_cpu_ns, run_queue_ns } = measured.split;
    // SAFETY: the element lives as long as its map, its fields are aligned `u64`s, and `slot` never reaches `SLOTS`.
    unsafe {
        // The slot before the sum: the daemon reads in the other order, so its sum never holds an event that its
        // slots lack.
        atomic_add((&raw mut (*histogram).slots).cast::<u64>().add(slot(latency_ns)), 1);
        atomic_add(&raw mut (*histogram).sum_ns, latency_ns);
        // And the whole before its parts, likewise.
        if on_cpu_ns > 0 {
            atomic_add(&raw mut (*histogram).on_cpu_ns, on_cpu_ns);
        }
        if run_queue_ns > 0 {
            atomic_add(&raw mut (*histogram).run_queue_ns, run_queue_ns);
        }
        if measured.is_slow() {
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
        if measured.bytes > 0 {
            atomic_add(&raw mut (*histogram).bytes, measured.bytes);
        }
        if latency_ns > (*histogram).max_ns {
            (*histogram).max_ns = latency_ns;
        }
    }
    if RECORDING.load() != 0 {
        record(series, measured);
    }
}

/// Counts `by` events of a reconciled series as begun; wraps, so that a failed one can be taken back.
#[inline(always)]
pub fn enter(series: u32, target: u32, by: u64) {
    if let Some(histogram) = histogram(target, series) {
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
fn histogram(target: u32, series: u32) -> Option<*mut Histogram> {
    HISTOGRAMS.get_ptr_mut(target * SERIES + series)
}

#[inline(always)]
fn record(series: u32, measured: Measured) {
    let Measured { target, entered_ns, latency_ns, .. } = measured;
    if RECORDS.output::<Record>(Record { entered_ns, latency_ns, target, series }, 0).is_err() {
        count(Miss::RingFull);
    }
}
