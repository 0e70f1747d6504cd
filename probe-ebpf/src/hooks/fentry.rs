//! Hooks on the entry and exit of the kernel's system call functions, `__x64_sys_*` and `__arm64_sys_*`.
//! Other system calls do not get slower.
//!
//! Such a function takes one argument, a pointer to `struct pt_regs` with the caller's registers
//! (`arch/*/include/asm/syscall_wrapper.h`, x86 since Linux 4.17, arm64 since 4.19). The daemon sets the
//! offsets of the registers that hold the arguments. The name of a program contains that of its system call;
//! the daemon passes the name of the kernel function, which depends on the architecture, when it loads the
//! program.

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use probe_ebpf::{
    series::Op,
    state::{PRIMARY, SECONDARY},
};

use crate::{
    arguments::Arguments,
    offset,
    syscall::{enter::enter, exit::exit},
};

/// Returns an argument of the system call: a register of the caller.
#[inline(always)]
fn argument(ctx: &FEntryContext, index: usize) -> u64 {
    let regs: *const u8 = ctx.arg(0);
    let offset = offset!(regs_arguments[index]);
    // SAFETY: the verifier has the pointer's type from BTF and rejects a load beyond `pt_regs`. Volatile, so
    // that it stays the one load of a word that the verifier checks.
    unsafe { core::ptr::read_volatile(regs.wrapping_add(offset).cast()) }
}

/// Returns the function's return value: the word after its one argument, on every kernel (`bpf_get_func_ret`
/// reads the same word, but only since 5.17).
#[inline(always)]
fn returned(ctx: &FExitContext) -> i64 {
    // SAFETY: the verifier checks the load against the number of words in the context.
    unsafe { *ctx.as_ptr().cast::<i64>().add(1) }
}

/// Defines the primary and the secondary program on both hooks of each call of [`probe_ebpf::operations!`].
macro_rules! programs {
    (calls { $($number:literal $op:ident $name:literal $syscall:ident,)+ } $($series:tt)*) => {
        $(
            programs!(PRIMARY, Op::$op, ${concat(fentry_, $name)}, ${concat(fexit_, $name)});
            programs!(
                SECONDARY,
                Op::$op,
                ${concat(fentry_, $name, _spare)},
                ${concat(fexit_, $name, _spare)}
            );
        )+
    };
    ($program:expr, $op:expr, $enter:ident, $exit:ident) => {
        #[fentry]
        pub fn $enter(ctx: FEntryContext) -> i32 {
            enter($program, $op, || Arguments::of($op, |index| argument(&ctx, index)));
            0
        }

        #[fexit]
        pub fn $exit(ctx: FExitContext) -> i32 {
            exit($program, $op, returned(&ctx));
            0
        }
    };
}

probe_ebpf::operations!(programs);
