//! Hooks on `syscalls:` tracepoints: they exist on every kernel, and pass the system call's own arguments.
//!
//! The context is `struct syscall_tp_t` of `kernel/trace/trace_syscalls.c` (5.10 to 7.2): the common fields,
//! the number of the system call, then from byte 16 its arguments, or its return value.

use aya_ebpf::{EbpfContext, macros::tracepoint, programs::TracePointContext};
use probe_ebpf::{
    series::Op,
    state::{PRIMARY, SECONDARY},
};

use crate::{
    arguments::Arguments,
    syscall::{enter::enter, exit::exit},
};

/// Words before the arguments; the daemon rejects a kernel whose common fields are longer.
const BEFORE_ARGUMENTS: usize = 2;

/// Returns an argument, or at an exit the return value.
#[inline(always)]
fn word(ctx: &TracePointContext, index: usize) -> u64 {
    // SAFETY: the verifier has the context's size and rejects a load beyond it. A load costs 55 ns less
    // than the helper behind `read_at`.
    unsafe { *ctx.as_ptr().cast::<u64>().add(BEFORE_ARGUMENTS + index) }
}

/// Defines the primary and the secondary program on both hooks of each call of [`probe_ebpf::operations!`].
macro_rules! programs {
    (calls { $($number:literal $op:ident $name:literal $syscall:ident,)+ } $($series:tt)*) => {
        $(
            programs!(PRIMARY, Op::$op, ${concat(sys_enter_, $name)}, ${concat(sys_exit_, $name)});
            programs!(
                SECONDARY,
                Op::$op,
                ${concat(sys_enter_, $name, _spare)},
                ${concat(sys_exit_, $name, _spare)}
            );
        )+
    };
    ($program:expr, $op:expr, $enter:ident, $exit:ident) => {
        #[tracepoint]
        pub fn $enter(ctx: TracePointContext) -> u32 {
            enter($program, $op, || Arguments::of($op, |index| word(&ctx, index)));
            0
        }

        #[tracepoint]
        pub fn $exit(ctx: TracePointContext) -> u32 {
            exit($program, $op, word(&ctx, 0) as i64);
            0
        }
    };
}

probe_ebpf::operations!(programs);
