//! Programs that the benchmark compares the probe's programs with; nothing else loads them: empty programs on
//! the same hooks, and programs of the shape of ebpf_exporter's examples.
//!
//! That shape is a start time by thread in a hash, inserted at the entry and deleted at the exit, and a
//! histogram of powers of two whose slots are elements of another hash: `increment_exp2_histogram` of its
//! `examples/maps.bpf.h`, which adds to one element for the slot and to one for the sum.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the bpf target has no `AtomicU64::fetch_add`")]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::{fentry, fexit, map, tracepoint},
    maps::HashMap,
    programs::{FEntryContext, FExitContext, TracePointContext},
};

/// The element that holds the sum of its histogram, one past the last slot.
const SUM: u32 = 27;

/// One element of a histogram.
#[repr(C)]
#[derive(Clone, Copy)]
struct SlotKey {
    call: u32,
    slot: u32,
}

/// Entry times by thread.
#[map]
static STARTS: HashMap<u32, u64> = HashMap::with_max_entries(10_240, 0);

#[map]
static SLOTS: HashMap<SlotKey, u64> = HashMap::with_max_entries(1024, 0);

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and may be called from any program type.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn begin() {
    // A full map loses a measurement, as in ebpf_exporter.
    _ = STARTS.insert(thread(), now_ns(), 0);
}

#[inline(always)]
fn end(call: u32) {
    // SAFETY: only the running thread inserts and deletes its element.
    let Some(&started_ns) = (unsafe { STARTS.get(thread()) }) else { return };
    let latency_us = (now_ns() - started_ns) / 1000;
    let slot = if latency_us == 0 { 0 } else { latency_us.ilog2() };
    increment(SlotKey { call, slot: slot.min(SUM - 1) }, 1);
    increment(SlotKey { call, slot: SUM }, latency_us);
    _ = STARTS.remove(thread());
}

#[inline(always)]
fn increment(key: SlotKey, amount: u64) {
    if SLOTS.get_ptr_mut(key).is_none() {
        // Another CPU may have been first.
        _ = SLOTS.insert(key, 0, BPF_NOEXIST.into());
    }
    if let Some(value) = SLOTS.get_ptr_mut(key) {
        // SAFETY: elements of this map are never deleted, and are aligned.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, amount) };
    }
}

/// Declares the programs of one system call: empty and of ebpf_exporter's shape, on either kind of hook.
macro_rules! at {
    ($call:expr, $enter:ident, $exit:ident, $fentry:ident, $fexit:ident,
     $exporter_enter:ident, $exporter_exit:ident, $exporter_fentry:ident, $exporter_fexit:ident) => {
        at!(tracepoint, TracePointContext, u32, $enter, {});
        at!(tracepoint, TracePointContext, u32, $exit, {});
        at!(fentry, FEntryContext, i32, $fentry, {});
        at!(fexit, FExitContext, i32, $fexit, {});
        at!(tracepoint, TracePointContext, u32, $exporter_enter, begin());
        at!(tracepoint, TracePointContext, u32, $exporter_exit, end($call));
        at!(fentry, FEntryContext, i32, $exporter_fentry, begin());
        at!(fexit, FExitContext, i32, $exporter_fexit, end($call));
    };
    ($kind:ident, $context:ty, $status:ty, $name:ident, $body:expr) => {
        #[$kind]
        pub fn $name(_ctx: $context) -> $status {
            $body;
            0
        }
    };
}

at! { 0, empty_sys_enter_write, empty_sys_exit_write, empty_fentry_write, empty_fexit_write,
exporter_sys_enter_write, exporter_sys_exit_write, exporter_fentry_write, exporter_fexit_write }
at! { 1, empty_sys_enter_pwrite64, empty_sys_exit_pwrite64, empty_fentry_pwrite64, empty_fexit_pwrite64,
exporter_sys_enter_pwrite64, exporter_sys_exit_pwrite64, exporter_fentry_pwrite64, exporter_fexit_pwrite64 }
at! { 2, empty_sys_enter_fdatasync, empty_sys_exit_fdatasync, empty_fentry_fdatasync, empty_fexit_fdatasync,
exporter_sys_enter_fdatasync, exporter_sys_exit_fdatasync,
exporter_fentry_fdatasync, exporter_fexit_fdatasync }

/// Only programs under the GPL may use the helpers that read the time.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Unreachable: the verifier rejects any program that could get here, because this loop has no end.
    loop {}
}
