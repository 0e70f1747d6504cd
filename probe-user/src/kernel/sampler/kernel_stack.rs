//! Reads the kernel stack of a thread, as function names.

use std::{fs, io};

use probe_ebpf::state::Thread;

use crate::analysis::causes::frames;

/// Returns the functions on a thread's kernel stack, innermost first; none while it runs on a CPU.
///
/// # Errors
/// If the thread has ended, or the calling thread may not read its stack, which requires `CAP_SYS_ADMIN` and
/// permission to trace that thread.
pub fn read(thread: &Thread) -> io::Result<Vec<String>> {
    let (pid, thread_id) = (thread.key.pid_tgid >> 32, thread.key.pid_tgid & 0xffff_ffff);
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread_id}/stack"))?;
    Ok(frames(&text).into_iter().map(str::to_owned).collect())
}

/// Returns whether the thread had ended before its stack file was opened, or between opening and reading.
pub fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
