//! Hooks on the entry and exit of the kernel's system call functions, `__x64_sys_*` and `__arm64_sys_*`: nobody else's
//! system calls get slower by them.
//!
//! Such a function takes one argument, a pointer to `struct pt_regs` with the caller's registers
//! (`arch/*/include/asm/syscall_wrapper.h`, x86 since Linux 4.17, arm64 since 4.19). Which registers hold the
//! arguments is known by the daemon. The programs are named by what they hook; the function's name, which differs
//! between machines, is given when they are loaded.

use aya_ebpf::{
    EbpfContext,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use probe_ebpf::{
    series::Op,
    state::{FIRST, SPARE},
};

use crate::{
    offset,
    operation::{Arguments, enter, exit},
};

/// Returns an argument of the system call: a register of the caller.
#[inline(always)]
fn argument(ctx: &FEntryContext, position: usize) -> u64 {
    let regs: *const u8 = ctx.arg(0);
    let offset = offset!(regs_arguments[position]);
    // SAFETY: the verifier knows the pointer's type from BTF and refuses a load beyond `pt_regs`. Volatile, so that it
    // stays the one load of a word that the verifier checks.
    unsafe { core::ptr::read_volatile(regs.wrapping_add(offset).cast()) }
}

/// Returns what the function returned: the word behind its one argument, on every kernel (`bpf_get_func_ret` reads the
/// same one, since 5.17 only).
#[inline(always)]
fn returned(ctx: &FExitContext) -> i64 {
    // SAFETY: the verifier knows how many words a function of one argument has here.
    unsafe { *ctx.as_ptr().cast::<i64>().add(1) }
}

/// Declares both hooks of one system call, each with its spare.
macro_rules! hooks {
    ($op:expr, $enter:ident, $exit:ident, $spare_enter:ident, $spare_exit:ident) => {
        hooks!(FIRST, $op, $enter, $exit);
        hooks!(SPARE, $op, $spare_enter, $spare_exit);
    };
    ($program:expr, $op:expr, $enter:ident, $exit:ident) => {
        #[fentry]
        pub fn $enter(ctx: FEntryContext) -> i32 {
            enter($program, $op, || Arguments::of($op, |position| argument(&ctx, position)));
            0
        }

        #[fexit]
        pub fn $exit(ctx: FExitContext) -> i32 {
            exit($program, $op, returned(&ctx));
            0
        }
    };
}

hooks! { Op::Fdatasync, fentry_fdatasync, fexit_fdatasync, fentry_fdatasync_spare, fexit_fdatasync_spare }
hooks! { Op::Fsync, fentry_fsync, fexit_fsync, fentry_fsync_spare, fexit_fsync_spare }
hooks! { Op::Write, fentry_write, fexit_write, fentry_write_spare, fexit_write_spare }
hooks! { Op::Pwrite64, fentry_pwrite64, fexit_pwrite64, fentry_pwrite64_spare, fexit_pwrite64_spare }
hooks! { Op::Ftruncate, fentry_ftruncate, fexit_ftruncate, fentry_ftruncate_spare, fexit_ftruncate_spare }
hooks! { Op::Fallocate, fentry_fallocate, fexit_fallocate, fentry_fallocate_spare, fexit_fallocate_spare }
