//! The kinds of hook.

use std::env::consts::ARCH;

use probe_ebpf::series::Op;

/// Where the kernel calls the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// On entry and exit of the functions of the traced system calls: no other system call gets slower.
    Fentry,
    /// On `syscalls:` tracepoints: available on every kernel, but slows every system call of the host.
    Tracepoint,
}

impl Hook {
    /// All kinds, the cheapest first.
    pub const ALL: [Self; 2] = [Self::Fentry, Self::Tracepoint];

    /// Returns the value of the label `hook`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// Returns the kernel function of a system call on this architecture
/// (`arch/*/include/asm/syscall_wrapper.h`).
pub(super) fn syscall_function(op: Op) -> String {
    let prefix = if ARCH == "aarch64" { "__arm64" } else { "__x64" };
    format!("{prefix}_sys_{}", op.as_str())
}
