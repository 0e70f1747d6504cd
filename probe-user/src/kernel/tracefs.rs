//! Where the kernel keeps what can be traced; needed only while tracepoints are attached.

use std::{path::Path, thread};

use rustix::{
    mount::{MountFlags, MountPropagationFlags},
    thread::UnshareFlags,
};

use super::KernelError;

const TRACEFS: &str = "/sys/kernel/tracing";
/// Where it was before Linux 4.1, and often is still.
const TRACEFS_BEFORE: &str = "/sys/kernel/debug/tracing";

/// Runs something that needs tracefs.
///
/// Where it is not mounted, it is for one short-lived thread that nobody else sees, so nothing of it is left.
///
/// # Errors
/// If it can neither be found nor mounted, and those of what was run.
pub fn with<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, KernelError> + Send + 'static,
) -> Result<T, KernelError> {
    if has_events(TRACEFS) || has_events(TRACEFS_BEFORE) {
        return run();
    }
    let running = thread::spawn(move || {
        mount().map_err(KernelError::NoTracefs)?;
        run()
    });
    running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn has_events(tracefs: &str) -> bool {
    Path::new(tracefs).join("events/syscalls").is_dir()
}

/// Mounts tracefs in a mount namespace of the running thread's own.
fn mount() -> rustix::io::Result<()> {
    // SAFETY: the thread gets its own root and working directory, which nothing of ours depends on; files stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)? };
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    rustix::mount::mount("tracefs", TRACEFS, "tracefs", MountFlags::RDONLY, None)
}
