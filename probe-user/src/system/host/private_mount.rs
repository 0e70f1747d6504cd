//! Access to a file system that is not mounted, through a mount that no other process can access.

use std::{io, path::Path, thread};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Runs a function with a file system mounted read-only, in a mount namespace that ends with the thread that
/// created it.
///
/// # Errors
/// If it cannot be mounted, in most cases because `CAP_SYS_ADMIN` is missing.
pub(crate) fn with<T: Send>(kind: &str, at: &Path, run: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            // SAFETY: the thread gets its own root and working directory, on which no other code depends; the
            // table of file descriptors stays shared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)? };
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            mount(kind, at, kind, MountFlags::RDONLY, None)?;
            Ok(run())
        });
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
