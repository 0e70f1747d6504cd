//! Privileges of the daemon: all that start-up requires, then only the privileges that reading requires.
//!
//! A new thread inherits the capabilities of the thread that starts it, so [`drop_capabilities`] is called
//! while there is only one thread.

use std::thread;

use rustix::thread::CapabilitySet;
use tracing::info;

use crate::system::{
    netns_spawner::{ENTERING, NetnsSpawner},
    thread_capabilities::{
        PrivilegeError, READING, forbid_new_privileges, keep, limit_bounding_set, own, spawn_keeping,
    },
};

/// Required to read the kernel stacks of other threads: `proc_pid_stack`, fs/proc/base.c, requires
/// `CAP_SYS_ADMIN`.
const STACKS: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// Starts the thread that reads the stacks of other threads, which requires `CAP_SYS_ADMIN`. Its only
/// connections to the outside are `/proc` and shared memory. Where this process lacks the capability, so does
/// the thread, and it reads no stack.
///
/// # Errors
/// If the thread cannot be started, or cannot drop the other capabilities.
pub fn spawn_stack_reader(body: impl FnOnce() + Send + 'static) -> Result<(), PrivilegeError> {
    spawn_keeping("stacks", own().permitted & (STACKS | READING), body)
}

/// Drops every capability that reading does not require, for good: no program that this process executes
/// regains one.
///
/// `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH` remain, and `CAP_BPF` where this kernel requires it for every
/// access to a map; `CAP_SYS_ADMIN` remains on the threads of the [`NetnsSpawner`].
///
/// # Errors
/// If the kernel refuses; the process must then exit.
pub fn drop_capabilities(
    maps_readable: impl FnOnce() -> bool + Send,
) -> Result<NetnsSpawner, PrivilegeError> {
    let held = own().permitted;
    forbid_new_privileges()?;
    let maps =
        if maps_need_no_capability(maps_readable) { CapabilitySet::empty() } else { CapabilitySet::BPF };
    let kept = held & (READING | maps);
    limit_bounding_set(READING | maps | ENTERING)?;
    let spawner = NetnsSpawner::open(held)?;
    limit_bounding_set(READING | maps)?;
    keep(kept)?;
    info!(kept = names(kept), "capabilities dropped");
    Ok(spawner)
}

/// Returns whether maps that are open can be read and written without any capability.
///
/// Before Linux 5.19 `kernel.unprivileged_bpf_disabled` forbids every use of bpf(2) (commit c8644cd0efe7), so
/// this is tested on a thread that has dropped the others.
fn maps_need_no_capability(maps_readable: impl FnOnce() -> bool + Send) -> bool {
    thread::scope(|scope| {
        let trial = scope.spawn(|| keep(READING & own().permitted).is_ok() && maps_readable());
        trial.join().unwrap_or(false)
    })
}

/// Returns a capability that this thread lacks and that reading another process, or files of another user,
/// requires.
pub fn missing_read_capability() -> Option<&'static str> {
    let held = own().effective;
    let needed = [
        (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
        (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    ];
    needed.into_iter().find(|(capability, _)| !held.contains(*capability)).map(|(_, name)| name)
}

fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_by_name() {
        assert_eq!(names(READING), "CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE");
        assert_eq!(names(CapabilitySet::empty()), "none");
    }
}
