//! The kernel stack of a thread, by name.

use std::{fs, io};

use probe_ebpf::state::Thread;

use crate::analysis::causes::frames;

/// Returns the functions that a thread is in, innermost first; none while it runs on a processor.
///
/// # Errors
/// Where the thread has ended, or this thread may not look: it takes `CAP_SYS_ADMIN` and the right to trace the other.
pub fn of(thread: &Thread) -> io::Result<Vec<String>> {
    let (pid, thread_id) = (thread.key.pid_tgid >> 32, thread.key.pid_tgid & 0xffff_ffff);
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread_id}/stack"))?;
    Ok(frames(&text).into_iter().map(str::to_owned).collect())
}

/// Returns whether the thread had ended before its stack was looked up, or between that and reading it.
pub fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
