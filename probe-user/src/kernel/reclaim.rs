//! Releases the array indices of threads and processes that have exited.

use std::{fs, io};

use probe_ebpf::state::{ErrorKey, ProcessKey, Thread};
use procfs::{FromRead, process::Stat};

use super::{Kernel, KernelError, in_flight::used_indices, in_map};

/// `/proc` counts in ticks of 10 ms (`USER_HZ`, the same on every architecture that etcd runs on).
pub const NS_PER_TICK: u64 = 10_000_000;

impl Kernel {
    /// Releases everything that belongs to a process that has exited, its index last.
    ///
    /// Read the histograms before the call: it sets them to zero.
    ///
    /// # Errors
    /// If the kernel refuses. The index then stays in use until a later call succeeds or the probe is
    /// restarted.
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

    /// Releases the indices of all threads of a target; they must have ended.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn release_threads(&mut self, target: u32) -> Result<(), KernelError> {
        self.release_threads_where(|thread| thread.target == target)
    }

    /// Releases the indices of threads that have ended while their process continues.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn release_ended_threads(&mut self) -> Result<(), KernelError> {
        self.release_threads_where(has_ended)
    }

    fn release_threads_where(&mut self, has_ended: impl Fn(&Thread) -> bool) -> Result<(), KernelError> {
        for index in used_indices(&self.threads).collect::<Vec<_>>() {
            let thread = self.threads.read(index);
            if has_ended(&thread) {
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

/// Returns whether a thread has ended. Its thread ID may belong to another thread by now.
fn has_ended(thread: &Thread) -> bool {
    let (pid, thread_id) = (thread.key.pid_tgid >> 32, thread.key.pid_tgid & 0xffff_ffff);
    match fs::File::open(format!("/proc/{pid}/task/{thread_id}/stat")) {
        Ok(file) => {
            Stat::from_read(file).is_ok_and(|stat| stat.starttime != thread.key.started_ns / NS_PER_TICK)
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
