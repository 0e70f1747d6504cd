//! What the process may do: all that starting takes, then only what reading takes.
//!
//! Capabilities belong to threads, and a thread inherits those of the one that started it. So [`drop_capabilities`] is
//! called while there is one thread.

use std::{io, sync::mpsc, thread};

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};
use tracing::info;

/// What finding members takes, and reading their settings, certificates and keys: other processes' roots and descriptors,
/// other users' files.
const READING: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// What entering a network namespace takes (`setns(2)`).
const ENTERING: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// What looking at the stacks of other threads takes: `proc_pid_stack`, fs/proc/base.c, asks for `CAP_SYS_ADMIN`.
const STACKS: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// Enough for a loop that starts threads.
const STACK_BYTES: usize = 256 << 10;

/// Why capabilities could not be dropped.
#[derive(Debug, thiserror::Error)]
#[error("cannot {0}")]
pub struct PrivilegeError(&'static str, #[source] io::Error);

/// Starts the threads that enter another network namespace: they alone keep the right to, and end after one connection.
///
/// No more than a narrower door: whoever runs code of his own in this process, with `CAP_SYS_PTRACE`, has the host anyway.
#[derive(Clone, Debug, Default)]
pub struct NetnsSpawner(Option<mpsc::Sender<Errand>>);

type Errand = Box<dyn FnOnce() + Send>;

impl NetnsSpawner {
    /// ProgramRuns something on a thread that may enter a namespace; on one like the caller's where no thread may.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn run(&self, errand: impl FnOnce() + Send + 'static) -> io::Result<()> {
        match &self.0 {
            Some(doorkeeper) => doorkeeper
                .send(Box::new(errand))
                .map_err(|_| io::Error::other("the thread that enters namespaces has ended")),
            None => start(errand),
        }
    }

    /// Starts the thread that keeps the right to enter, if this one has it.
    fn open(held: CapabilitySet) -> Result<Self, PrivilegeError> {
        if !held.contains(ENTERING) {
            return Ok(Self::default());
        }
        let (sender, errands) = mpsc::channel::<Errand>();
        spawn_keeping("namespaces", held & (ENTERING | READING), move || {
            for errand in errands {
                if let Err(error) = start(errand) {
                    tracing::warn!(%error, "cannot start a thread to enter a namespace");
                }
            }
        })?;
        Ok(Self(Some(sender)))
    }
}

/// Starts a thread for one errand.
fn start(errand: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Enough for the resolver and for TLS, and little beside the default of 2 MiB.
    thread::Builder::new().name("etcd-connect".to_owned()).stack_size(512 << 10).spawn(errand).map(drop)
}

/// Starts the thread that reads the stacks of others, which takes `CAP_SYS_ADMIN`; it has no other connection to the outside
/// than `/proc` and shared memory. Where this process has not got that, the thread has not either, and reads none.
///
/// # Errors
/// If the thread cannot be started, or would keep more.
pub fn spawn_reader_of_stacks(body: impl FnOnce() + Send + 'static) -> Result<(), PrivilegeError> {
    spawn_keeping("stacks", own().permitted & (STACKS | READING), body)
}

/// Starts a thread that has given up all other capabilities before this returns.
fn spawn_keeping(
    name: &'static str,
    kept: CapabilitySet,
    body: impl FnOnce() + Send + 'static,
) -> Result<(), PrivilegeError> {
    let failed = |error| PrivilegeError("start a thread", error);
    let (dropped, told) = mpsc::channel();
    let builder = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    let spawned = builder.spawn(move || {
        let outcome = set_no_new_privs(true)
            .map_err(|error| PrivilegeError("set no_new_privs", error.into()))
            .and_then(|()| bound(kept))
            .and_then(|()| keep(kept));
        let is_kept = outcome.is_ok();
        let _ = dropped.send(outcome); // Whoever waits for it is there.
        if is_kept {
            body();
        }
    });
    spawned.map_err(failed)?;
    told.recv().map_err(|error| failed(io::Error::other(error)))?
}

/// Gives up every capability that reading does not take, for good: no program that this process starts gets one back.
///
/// What stays is `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`, and `CAP_BPF` where this kernel asks for it at every look into a
/// map; and on the threads of the [`NetnsSpawner`] `CAP_SYS_ADMIN`.
///
/// # Errors
/// If the kernel refuses; then the process is to end.
pub fn drop_capabilities(
    maps_readable: impl FnOnce() -> bool + Send,
) -> Result<NetnsSpawner, PrivilegeError> {
    let held = own().permitted;
    set_no_new_privs(true).map_err(|error| PrivilegeError("set no_new_privs", error.into()))?;
    let maps = if maps_are_open_to_all(maps_readable) { CapabilitySet::empty() } else { CapabilitySet::BPF };
    let kept = held & (READING | maps);
    bound(READING | maps | ENTERING)?;
    let entrance = NetnsSpawner::open(held)?;
    bound(READING | maps)?;
    keep(kept)?;
    info!(kept = names(kept), "capabilities dropped");
    Ok(entrance)
}

/// Returns whether maps that are open can be read and written without any capability.
///
/// Before Linux 5.19 `kernel.unprivileged_bpf_disabled` forbids every use of bpf(2) (commit c8644cd0efe7), so it is tried.
fn maps_are_open_to_all(maps_readable: impl FnOnce() -> bool + Send) -> bool {
    thread::scope(|scope| {
        let trial = scope.spawn(|| keep(READING & own().permitted).is_ok() && maps_readable());
        trial.join().unwrap_or(false)
    })
}

/// Returns the capability for want of which something of another process, or of another user, may not be read.
pub fn lacking_to_read() -> Option<&'static str> {
    let held = own().effective;
    let needed = [
        (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
        (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    ];
    needed.into_iter().find(|(capability, _)| !held.contains(*capability)).map(|(_, name)| name)
}

/// Returns the capabilities of the running thread.
fn own() -> CapabilitySets {
    let none = CapabilitySet::empty();
    // It fails for a process that does not exist only.
    capabilities(None).unwrap_or(CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Leaves the running thread no others; those kept are in effect.
fn keep(kept: CapabilitySet) -> Result<(), PrivilegeError> {
    let told = |error: Errno| PrivilegeError("drop capabilities", error.into());
    clear_ambient_capability_set().map_err(told)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(told)
}

/// Takes every other capability from what this thread, and whatever it starts or becomes, could ever get.
///
/// # Errors
/// If the kernel refuses.
pub fn bound(kept: CapabilitySet) -> Result<(), PrivilegeError> {
    if !own().effective.contains(CapabilitySet::SETPCAP) {
        // Not allowed, and not needed: `no_new_privs` keeps whatever is executed from getting more.
        return Ok(());
    }
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => remove_capability_from_bounding_set(capability)
                .map_err(|error| PrivilegeError("narrow the bounding set", error.into()))?,
            Ok(_) => {}
            // The kernel knows no more.
            Err(_) => break,
        }
    }
    Ok(())
}

fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_what_it_is_told_to_and_others_keep_theirs() {
        let before = own();
        let kept = thread::spawn(|| keep(READING & own().permitted).map(|()| own())).join().unwrap().unwrap();
        assert_eq!(kept.permitted, READING & before.permitted);
        assert_eq!((kept.effective, kept.inheritable), (kept.permitted, CapabilitySet::empty()));
        assert_eq!(own(), before, "capabilities belong to threads");
    }

    #[test]
    fn an_entrance_is_there_for_whoever_held_the_key() {
        let (sender, told) = mpsc::channel();
        let entrance = NetnsSpawner::open(own().permitted).unwrap();
        entrance.run(move || sender.send(own().effective).unwrap()).unwrap();
        let inside = told.recv().unwrap();
        assert_eq!(inside, own().permitted & if entrance.0.is_some() { ENTERING | READING } else { inside });
    }

    #[test]
    fn sets_are_told_by_name() {
        assert_eq!(names(READING), "CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE");
        assert_eq!(names(CapabilitySet::empty()), "none");
    }
}
