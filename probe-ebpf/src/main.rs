//! The kernel programs: they time etcd's operations on its files and count, nothing else.
//!
//! Every program does constant work and sends no event per call. What each file does, in the order of a system call:
//! `fentry` or `tracepoint` is entered, `target` tells whether the caller is an etcd, `known_file` with `file` what the descriptor
//! is, `beginning` remembers, `operation` measures with the thread's `account`, `record` counts, `slow` tells of what took too long. Beside them
//! `block` follows requests on the devices below, and `switch`, which only `--causes exact` loads, what threads wait for.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the bpf target has no `AtomicU64::fetch_add`; see `maps::atomic_add`")]

mod account;
mod beginning;
mod block;
mod fault;
mod fentry;
mod file;
mod known_file;
mod maps;
mod operation;
mod record;
mod slow;
mod switch;
mod target;
mod tracepoint;

/// The helpers that read kernel memory are for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // No program panics: one that could would not pass the verifier, for want of an end to this loop.
    loop {}
}
