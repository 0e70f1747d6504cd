//! `--causes exact`: a program on every context switch.

use aya::Ebpf;

use super::{KernelError, block_io};

const TRACEPOINT: &str = "sched_switch";

/// Loads the program.
///
/// # Errors
/// Names what this kernel or these privileges do not allow.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    block_io::load_raw(ebpf, &[TRACEPOINT])
}

/// Attaches the program.
///
/// # Errors
/// As [`load`].
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    block_io::attach_raw(ebpf, TRACEPOINT)
}
