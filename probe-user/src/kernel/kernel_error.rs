//! Errors of loading, attaching and reading the kernel programs.

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// Why the kernel half cannot start. The message names the object and the way out.
/// The cause stays in `source`, so an error chain prints it once.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "cannot identify the host's processes from inside a pid namespace; \
         run in the host's (`--pid=host`, `hostPID: true`)"
    )]
    PidNamespace,
    #[error("cannot read /sys/kernel/btf/vmlinux ({0}); the kernel needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf(String),
    #[error("cannot find `{0}.{1}` in this kernel's BTF; please report its version")]
    NoField(&'static str, &'static str),
    #[error("cannot watch for process name `{0}`; at most four names, none empty")]
    TooManyNames(String),
    #[error("cannot create the kernel's maps")]
    Load(#[source] Box<EbpfError>),
    #[error("cannot load program `{0}`")]
    Verify(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot find program `{0}` in the object; build with `cargo xtask build`")]
    NoProgram(String),
    #[error("cannot find the function `{0}` in this kernel's BTF; choose another --hook")]
    NoFunction(String),
    #[error("cannot attach the {hook} hook to `{point}`")]
    Attach { hook: &'static str, point: String, source: Box<ProgramError> },
    #[error("cannot find or mount tracefs")]
    NoTracefs(#[source] std::io::Error),
    #[error("cannot open map `{0}`")]
    Map(&'static str, #[source] MapError),
    #[error("cannot map `{0}` into memory")]
    Memory(&'static str, #[source] std::io::Error),
}

impl KernelError {
    /// Returns whether a missing privilege can be the cause.
    pub(super) fn may_be_denial(&self) -> bool {
        matches!(self, Self::Load(_) | Self::Verify(..) | Self::Attach { .. } | Self::NoTracefs(_))
    }

    /// Returns whether another kind of hook may work.
    pub(super) fn depends_on_hook(&self) -> bool {
        matches!(
            self,
            Self::Verify(..)
                | Self::NoFunction(_)
                | Self::Attach { .. }
                | Self::NoTracefs(_)
                | Self::NoField("trace_entry", _)
        )
    }
}
