//! Threads that enter another network namespace, to connect to an etcd in it.

use std::{io, sync::mpsc, thread};

use rustix::thread::CapabilitySet;

use crate::system::thread_capabilities::{PrivilegeError, READING, spawn_keeping};

/// Required to enter a network namespace (`setns(2)`).
pub(super) const ENTERING: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// Starts threads that enter another network namespace. Only they keep the capability for it; each ends after
/// one connection.
///
/// This reduces the attack surface and is no security boundary: code that runs in this process with
/// `CAP_SYS_PTRACE` controls the host anyway.
#[derive(Clone, Debug, Default)]
pub struct NetnsSpawner(Option<mpsc::Sender<Job>>);

type Job = Box<dyn FnOnce() + Send>;

impl NetnsSpawner {
    /// Runs a job on a thread that can enter a namespace; without such threads, on one with the capabilities
    /// of the caller.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        match &self.0 {
            Some(sender) => sender
                .send(Box::new(job))
                .map_err(|_| io::Error::other("the thread that enters network namespaces has ended")),
            None => start(job),
        }
    }

    /// Starts the thread that keeps the capability to enter, if the running thread has it.
    pub(super) fn open(held: CapabilitySet) -> Result<Self, PrivilegeError> {
        if !held.contains(ENTERING) {
            return Ok(Self::default());
        }
        let (sender, jobs) = mpsc::channel::<Job>();
        spawn_keeping("namespaces", held & (ENTERING | READING), move || {
            for job in jobs {
                if let Err(error) = start(job) {
                    tracing::warn!(%error, "cannot start a thread to enter a network namespace");
                }
            }
        })?;
        Ok(Self(Some(sender)))
    }
}

/// Starts a thread for one job.
fn start(job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Enough for the resolver and for TLS, and little compared with the default of 2 MiB.
    thread::Builder::new().name("etcd-connect".to_owned()).stack_size(512 << 10).spawn(job).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::thread_capabilities::own;

    #[test]
    fn a_job_has_the_capability_to_enter_if_it_was_held() {
        let (sender, receiver) = mpsc::channel();
        let spawner = NetnsSpawner::open(own().permitted).unwrap();
        spawner.run(move || sender.send(own().effective).unwrap()).unwrap();
        let inside = receiver.recv().unwrap();
        assert_eq!(inside, own().permitted & if spawner.0.is_some() { ENTERING | READING } else { inside });
    }
}
