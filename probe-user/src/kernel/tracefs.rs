//! Where the kernel keeps what can be traced; needed only while tracepoints are attached.

use std::path::Path;

use super::KernelError;
use crate::system::host::private_mount;

const TRACEFS: &str = "/sys/kernel/tracing";
/// Where it was before Linux 4.1, and often is still.
const TRACEFS_BEFORE: &str = "/sys/kernel/debug/tracing";

/// ProgramRuns something that needs tracefs, which is mounted for it alone where it is not mounted.
///
/// # Errors
/// If it can neither be found nor mounted, and those of what was run.
pub fn with<T: Send>(run: impl FnOnce() -> Result<T, KernelError> + Send) -> Result<T, KernelError> {
    if has_events(TRACEFS) || has_events(TRACEFS_BEFORE) {
        return run();
    }
    private_mount::with("tracefs", Path::new(TRACEFS), run).map_err(KernelError::NoTracefs)?
}

fn has_events(tracefs: &str) -> bool {
    Path::new(tracefs).join("events/syscalls").is_dir()
}
