//! The kernel programs: they time etcd's operations on its files and count them.
//!
//! Each program does constant work and sends no event per call. Control and imports go one way, from the
//! hooks down:
//!
//! - `hooks` are the programs that the kernel calls.
//! - `syscall` processes the entry and the exit of a system call: `enter` starts the clock, `classify_call`
//!   determines which series the call belongs to and what it completes, `exit` measures.
//! - `lookup` finds the process and the thread, the file of a descriptor (`vfs`, through `file_cache`), and
//!   the scheduler's statistics of a thread.
//! - `output` updates histograms and totals, and emits slow events.
//!
//! `hooks::block` follows bios on the devices below etcd's files. `hooks::sched_switch`, which only `--causes
//! exact` loads, records what threads wait for.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics, macro_metavar_expr_concat)]
#![expect(internal_features, reason = "the bpf target has no `AtomicU64::fetch_add`; see `maps::atomic_add`")]

mod arguments;
mod clock;
mod fault_injection;
mod maps;

/// Programs that the kernel calls.
mod hooks {
    mod block;
    mod fentry;
    mod sched_switch;
    mod tracepoint;
}

/// System calls, from the entry to the return.
mod syscall {
    pub mod classify_call;
    pub mod enter;
    pub mod exit;
}

/// Reads of kernel structures and of the programs' own state.
mod lookup {
    pub mod file_cache;
    pub mod kernel_memory;
    pub mod process;
    pub mod sched_stats;
    pub mod vfs;
}

/// Counts and records that the daemon reads.
mod output {
    pub mod histogram_update;
    pub mod io_owners;
    pub mod slow_event;
    pub mod thread_waits;
}

/// Only programs under the GPL may use the helpers that read kernel memory.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Unreachable: the verifier rejects any program that could get here, because this loop has no end.
    loop {}
}
