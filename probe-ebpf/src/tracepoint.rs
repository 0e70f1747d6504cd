//! Hooks on `syscalls:` tracepoints: they exist on every kernel and their arguments are the system call's own.
//!
//! The context is `struct syscall_tp_t` of `kernel/trace/trace_syscalls.c` (5.10 to 7.2): the common fields, the number
//! of the system call, then from byte 16 its arguments, or its result.

use aya_ebpf::{EbpfContext, macros::tracepoint, programs::TracePointContext};
use probe_ebpf::{
    series::Op,
    state::{FIRST, SPARE},
};

use crate::operation::{Arguments, enter, exit};

/// Words before the arguments; the daemon refuses a kernel whose common fields are longer.
const BEFORE_ARGUMENTS: usize = 2;

/// Returns an argument, or for an exit the result.
#[inline(always)]
fn word(ctx: &TracePointContext, index: usize) -> u64 {
    // SAFETY: the verifier knows the context's size and refuses a load beyond it. A load costs 55 ns less than the
    // helper behind `read_at`.
    unsafe { *ctx.as_ptr().cast::<u64>().add(BEFORE_ARGUMENTS + index) }
}

/// Declares both hooks of one system call, each with its spare.
macro_rules! hooks {
    ($op:expr, $enter:ident, $exit:ident, $spare_enter:ident, $spare_exit:ident) => {
        hooks!(FIRST, $op, $enter, $exit);
        hooks!(SPARE, $op, $spare_enter, $spare_exit);
    };
    ($program:expr, $op:expr, $enter:ident, $exit:ident) => {
        #[tracepoint]
        pub fn $enter(ctx: TracePointContext) -> u32 {
            enter($program, $op, || Arguments::of($op, |position| word(&ctx, position)));
            0
        }

        #[tracepoint]
        pub fn $exit(ctx: TracePointContext) -> u32 {
            exit($program, $op, word(&ctx, 0) as i64);
            0
        }
    };
}

hooks! { Op::Fdatasync, sys_enter_fdatasync, sys_exit_fdatasync, sys_enter_fdatasync_spare, sys_exit_fdatasync_spare }
hooks! { Op::Fsync, sys_enter_fsync, sys_exit_fsync, sys_enter_fsync_spare, sys_exit_fsync_spare }
hooks! { Op::Write, sys_enter_write, sys_exit_write, sys_enter_write_spare, sys_exit_write_spare }
hooks! { Op::Pwrite64, sys_enter_pwrite64, sys_exit_pwrite64, sys_enter_pwrite64_spare, sys_exit_pwrite64_spare }
hooks! { Op::Ftruncate, sys_enter_ftruncate, sys_exit_ftruncate, sys_enter_ftruncate_spare, sys_exit_ftruncate_spare }
hooks! { Op::Fallocate, sys_enter_fallocate, sys_exit_fallocate, sys_enter_fallocate_spare, sys_exit_fallocate_spare }
