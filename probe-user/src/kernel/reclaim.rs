//! Gives back the positions of threads and processes that are gone.

use std::{fs, io};

use probe_ebpf::state::{ErrorKey, ProcessKey, Thread};
use procfs::{FromRead, process::Stat};

use super::{Kernel, KernelError, in_flight::taken, in_map};

/// `/proc` counts in ticks of 10 ms (`USER_HZ`, the same on every architecture that etcd runs on).
pub const NS_PER_TICK: u64 = 10_000_000;

impl Kernel {
    /// Gives back everything that belongs to a process that is gone; returns its failed operations, last of all.
    ///
    /// The caller has read the histograms before: they are zero from here on.
    ///
    /// # Errors
    /// If the kernel refuses; then the position is lost until the probe is restarted, and can be tried again.
    pub fn release(&mut self, target: u32) -> Result<(), KernelError> {
        self.release_threads(target)?;
        let failed: Vec<ErrorKey> =
            self.errors.keys().filter_map(Result::ok).filter(|key| key.target == target).collect();
        for key in failed {
            self.errors.remove(&key).map_err(in_map("ERRORS"))?;
        }
        let state = self.state(target);
        let key = ProcessKey { started_ns: state.started_ns, tgid: u64::from(state.tgid) };
        self.target_by_process.remove(&key).map_err(in_map("TARGET_BY_PROCESS"))?;
        self.histograms.release(target)?;
        self.targets.clear(target);
        self.free_targets.push(target, 0).map_err(in_map("FREE_TARGETS"))
    }

    /// Gives back the positions of all threads of a target, which have ended.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn release_threads(&mut self, target: u32) -> Result<(), KernelError> {
        self.release_those(|thread| thread.target == target)
    }

    /// Gives back the positions of threads that have ended while their process lives on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn release_ended_threads(&mut self) -> Result<(), KernelError> {
        self.release_those(has_ended)
    }

    fn release_those(&mut self, are_gone: impl Fn(&Thread) -> bool) -> Result<(), KernelError> {
        for index in taken(&self.threads).collect::<Vec<_>>() {
            let thread = self.threads.read(index);
            if are_gone(&thread) {
                self.release_thread(index, &thread)?;
            }
        }
        Ok(())
    }

    fn release_thread(&mut self, index: u32, thread: &Thread) -> Result<(), KernelError> {
        self.thread_by_key.remove(&thread.key).map_err(in_map("THREAD_BY_KEY"))?;
        self.threads.clear(index);
        self.free_threads.push(index, 0).map_err(in_map("FREE_THREADS"))
    }
}

/// Returns whether a thread is gone, or its number belongs to another one by now.
fn has_ended(thread: &Thread) -> bool {
    let (pid, thread_id) = (thread.key.pid_tgid >> 32, thread.key.pid_tgid & 0xffff_ffff);
    match fs::File::open(format!("/proc/{pid}/task/{thread_id}/stat")) {
        Ok(file) => {
            Stat::from_read(file).is_ok_and(|stat| stat.starttime != thread.key.started_ns / NS_PER_TICK)
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
