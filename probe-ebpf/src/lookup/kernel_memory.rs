//! Reads of the kernel's own structures.

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{bpf_get_current_task, bpf_get_current_task_btf},
};
use probe_ebpf::{miss::Miss, offsets::ABSENT};

/// Reads a field of a kernel structure.
#[inline(always)]
pub fn read<T>(base: *const u8, offset: usize) -> Result<T, Miss> {
    // SAFETY: the helper checks the address and fails if it cannot be read.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast()) }.map_err(|_| Miss::UnreadableFile)
}

/// Reads a field of a kernel structure, if this kernel has it.
#[inline(always)]
pub fn field<T>(base: u64, offset: usize) -> Option<T> {
    if offset == ABSENT as usize {
        return None;
    }
    // SAFETY: the helper checks the address and fails if it cannot be read.
    unsafe { bpf_probe_read_kernel((base as *const u8).wrapping_add(offset).cast()) }.ok()
}

/// Loads a field of a kernel structure whose type the verifier has: the running thread's, or that of a
/// structure that such a field points to.
#[inline(always)]
pub fn load<T>(base: *const u8, offset: usize) -> T {
    // SAFETY: the verifier checks the offset against the type; a load that faults returns zero.
    unsafe { base.wrapping_add(offset).cast::<T>().read_volatile() }
}

/// Returns the running thread's `task_struct`.
#[inline(always)]
pub fn task() -> *const u8 {
    // SAFETY: the helper takes no arguments and may be called from any tracing program.
    unsafe { bpf_get_current_task() as *const u8 }
}

/// Returns the same with its type, for [`load`]; only if [`crate::maps::TYPED_TASK`] is set.
#[inline(always)]
pub fn typed_task() -> *const u8 {
    // SAFETY: the helper takes no arguments and may be called from any tracing program; it exists since Linux
    // 5.11, from which on the daemon sets `TYPED_TASK`.
    unsafe { bpf_get_current_task_btf() }.cast()
}
