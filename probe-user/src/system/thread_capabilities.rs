//! The capabilities of the running thread: read, reduced, and limited for good.
//!
//! Capabilities belong to threads, and a new thread inherits the capabilities of the thread that starts it.

use std::{io, sync::mpsc, thread};

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};

/// Required to find members and to read their settings, certificates and keys: the roots and descriptors of
/// other processes, and files of other users.
pub(super) const READING: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// Enough for a loop that starts threads.
const STACK_BYTES: usize = 256 << 10;

/// Capabilities could not be dropped.
#[derive(Debug, thiserror::Error)]
#[error("cannot {0}")]
pub struct PrivilegeError(&'static str, #[source] io::Error);

/// Starts a thread that has dropped all other capabilities before this function returns.
pub(super) fn spawn_keeping(
    name: &'static str,
    kept: CapabilitySet,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), PrivilegeError> {
    let failed = |error| PrivilegeError("start a thread", error);
    let (sender, outcome) = mpsc::channel();
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    let spawned = builder.spawn(move || {
        let dropped =
            forbid_new_privileges().and_then(|()| limit_bounding_set(kept)).and_then(|()| keep(kept));
        let is_reduced = dropped.is_ok();
        let _ = sender.send(dropped); // The receiver exists: the starting thread waits on it.
        if is_reduced {
            body();
        }
    });
    spawned.map_err(failed)?;
    outcome.recv().map_err(|error| failed(io::Error::other(error)))?
}

/// Sets `no_new_privs`: no program that this thread executes gains a privilege.
pub(super) fn forbid_new_privileges() -> Result<(), PrivilegeError> {
    set_no_new_privs(true).map_err(|error| PrivilegeError("set no_new_privs", error.into()))
}

/// Returns the capabilities of the running thread.
pub(super) fn own() -> CapabilitySets {
    let none = CapabilitySet::empty();
    // capget(2) fails only for a process that does not exist.
    capabilities(None).unwrap_or(CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Drops all other capabilities of the running thread; those kept are effective.
pub(super) fn keep(kept: CapabilitySet) -> Result<(), PrivilegeError> {
    let failed = |error: Errno| PrivilegeError("drop capabilities", error.into());
    clear_ambient_capability_set().map_err(failed)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed)
}

/// Removes every other capability from the bounding set of the running thread, so that neither it, nor a
/// thread that it starts or a program that it executes, can gain one.
///
/// # Errors
/// If the kernel refuses.
pub fn limit_bounding_set(kept: CapabilitySet) -> Result<(), PrivilegeError> {
    if !own().effective.contains(CapabilitySet::SETPCAP) {
        // Not permitted, and not required: `no_new_privs` prevents an executed program from gaining
        // capabilities.
        return Ok(());
    }
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => remove_capability_from_bounding_set(capability)
                .map_err(|error| PrivilegeError("narrow the bounding set", error.into()))?,
            Ok(_) => {}
            // This kernel has no capability of this number, and none above it.
            Err(_) => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_changes_only_the_running_thread() {
        let before = own();
        let kept = thread::spawn(|| keep(READING & own().permitted).map(|()| own())).join().unwrap().unwrap();
        assert_eq!(kept.permitted, READING & before.permitted);
        assert_eq!((kept.effective, kept.inheritable), (kept.permitted, CapabilitySet::empty()));
        assert_eq!(own(), before, "capabilities belong to threads");
    }
}
