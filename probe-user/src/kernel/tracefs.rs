//! Access to tracefs, which is needed only while tracepoints are attached.

use std::path::Path;

use super::KernelError;
use crate::system::host::private_mount;

const TRACEFS: &str = "/sys/kernel/tracing";
/// The mount point before Linux 4.1, and often still in use.
const TRACEFS_IN_DEBUGFS: &str = "/sys/kernel/debug/tracing";

/// Runs a function that needs tracefs. If tracefs is not mounted, it is mounted for this function only.
///
/// # Errors
/// If tracefs cannot be found or mounted, and the errors of the function.
pub fn with<T: Send>(run: impl FnOnce() -> Result<T, KernelError> + Send) -> Result<T, KernelError> {
    if has_events(TRACEFS) || has_events(TRACEFS_IN_DEBUGFS) {
        return run();
    }
    private_mount::with("tracefs", Path::new(TRACEFS), run).map_err(KernelError::NoTracefs)?
}

fn has_events(tracefs: &str) -> bool {
    Path::new(tracefs).join("events/syscalls").is_dir()
}
