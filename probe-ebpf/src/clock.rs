//! The clock of all measurements.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

/// Returns ns of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and may be called from any program.
    unsafe { bpf_ktime_get_ns() }
}
