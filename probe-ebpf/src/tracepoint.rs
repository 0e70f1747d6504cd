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

/// Declares what one program, [`FIRST`] or [`SPARE`], has on both hooks of one system call; `$buffer`, `$bytes` and `$offset` are the positions of its arguments.
macro_rules! hooks {
    ($program:expr, $op:expr, $enter:ident, $exit:ident $(, $buffer:literal, $bytes:literal, $offset:literal)?) => {
        #[tracepoint]
        pub fn $enter(ctx: TracePointContext) -> u32 {
            #[allow(unused_mut, reason = "most system calls have only a descriptor that matters")]
            let mut arguments = Arguments { descriptor: word(&ctx, 0), buffer: 0, bytes: 0, offset: 0 };
            $(
                arguments.buffer = word(&ctx, $buffer);
                arguments.bytes = word(&ctx, $bytes);
                arguments.offset = word(&ctx, $offset);
            )?
            enter(&ctx, $program, $op, arguments);
            0
        }

        #[tracepoint]
        pub fn $exit(ctx: TracePointContext) -> u32 {
            exit(&ctx, $program, $op, word(&ctx, 0) as i64);
            0
        }
    };
}

hooks!(FIRST, Op::Fdatasync, sys_enter_fdatasync, sys_exit_fdatasync);
hooks!(FIRST, Op::Fsync, sys_enter_fsync, sys_exit_fsync);
hooks!(FIRST, Op::Write, sys_enter_write, sys_exit_write);
hooks!(FIRST, Op::Pwrite64, sys_enter_pwrite64, sys_exit_pwrite64, 1, 2, 3);
hooks!(FIRST, Op::Ftruncate, sys_enter_ftruncate, sys_exit_ftruncate);
hooks!(FIRST, Op::Fallocate, sys_enter_fallocate, sys_exit_fallocate);

hooks!(SPARE, Op::Fdatasync, sys_enter_fdatasync_spare, sys_exit_fdatasync_spare);
hooks!(SPARE, Op::Fsync, sys_enter_fsync_spare, sys_exit_fsync_spare);
hooks!(SPARE, Op::Write, sys_enter_write_spare, sys_exit_write_spare);
hooks!(SPARE, Op::Pwrite64, sys_enter_pwrite64_spare, sys_exit_pwrite64_spare, 1, 2, 3);
hooks!(SPARE, Op::Ftruncate, sys_enter_ftruncate_spare, sys_exit_ftruncate_spare);
hooks!(SPARE, Op::Fallocate, sys_enter_fallocate_spare, sys_exit_fallocate_spare);
