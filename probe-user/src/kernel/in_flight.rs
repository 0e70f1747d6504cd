//! Operations in flight: they have begun and not returned.

use std::{fs, io};

use probe_ebpf::{
    series::{OPERATIONS, Op},
    state::{NO_SERIES, Thread},
};

use super::{Kernel, mmap_array::MmapArray, monotonic_ns};

/// Operations in flight for longer than this are verified: the kernel may have skipped the program on their
/// exit.
const VERIFIED_AFTER_NS: u64 = 500_000_000;

/// An operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    pub target: u32,
    /// Its index in `OPERATIONS`.
    pub series: u32,
    pub age_ns: u64,
}

impl Kernel {
    /// Returns the operations in flight.
    pub fn in_flight(&self) -> Vec<InFlight> {
        let now_ns = monotonic_ns();
        in_operation(&self.threads, used_indices(&self.threads))
            .map(|thread| (thread, now_ns.saturating_sub(thread.started_ns)))
            .filter(|(thread, age_ns)| *age_ns < VERIFIED_AFTER_NS || may_be_in_syscall(thread))
            .map(|(thread, age_ns)| InFlight { target: thread.target, series: thread.series, age_ns })
            .collect()
    }
}

/// Index of the word of a [`Thread`] with the start of its operation.
const STARTED_NS: usize = 2;

const _: () = assert!(std::mem::offset_of!(Thread, started_ns) == 8 * STARTED_NS, "the third word");

/// Returns the indices that are in use.
pub(super) fn used_indices(threads: &MmapArray<Thread>) -> impl Iterator<Item = u32> {
    // The process and thread ids come first, and are 0 in a free element.
    (0..threads.length()).filter(|index| threads.word(*index, 0) != 0)
}

/// Returns the threads at these indices that are in an operation. Reads only one word of each other thread.
pub(super) fn in_operation(
    threads: &MmapArray<Thread>,
    indices: impl Iterator<Item = u32>,
) -> impl Iterator<Item = Thread> {
    let began = indices.filter(|index| threads.word(*index, STARTED_NS) != 0);
    let read = began.map(|index| threads.read(index));
    read.filter(|thread| thread.started_ns != 0 && thread.series != NO_SERIES)
}

/// Returns whether a thread may still be in the system call of its operation.
fn may_be_in_syscall(thread: &Thread) -> bool {
    let Some((_, op)) = OPERATIONS.get(thread.series as usize) else { return true };
    let (pid, thread_id) = (thread.key.pid_tgid >> 32, thread.key.pid_tgid & 0xffff_ffff);
    match fs::read_to_string(format!("/proc/{pid}/task/{thread_id}/syscall")) {
        Ok(text) => may_be_in_op(&text, *op),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Evaluates `/proc/PID/task/TID/syscall`: the number and arguments of the call in which a thread waits, or
/// `running`, which contains no number (`proc_pid_syscall` in `fs/proc/base.c`).
fn may_be_in_op(text: &str, op: Op) -> bool {
    let number = text.split_whitespace().next().and_then(|word| word.parse::<i64>().ok());
    number.is_none_or(|number| number == number_of(op))
}

/// Defines `number_of`, the number of a system call on this architecture.
macro_rules! number_of {
    (calls { $($number:literal $op:ident $name:literal $syscall:ident,)+ } $($series:tt)*) => {
        fn number_of(op: Op) -> i64 {
            match op {
                $(Op::$op => libc::$syscall,)+
            }
        }
    };
}

probe_ebpf::operations!(number_of);

#[cfg(test)]
mod tests {
    use probe_ebpf::state::ThreadKey;

    use super::*;

    #[test]
    fn a_thread_that_waits_in_another_call_has_left_this_one() {
        let call = |number: i64| format!("{number} 0x7 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f1c\n");
        let cases = [
            (call(libc::SYS_fdatasync), true, "in this call"),
            (call(libc::SYS_futex), false, "Go has parked the thread"),
            ("-1 0x7ffd 0x7f1c\n".to_owned(), false, "in no call at all"),
            ("running\n".to_owned(), true, "on a CPU, so unknown"),
            (String::new(), true, "nothing to read"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(may_be_in_op(&text, Op::Fdatasync), expected, "{why}");
        }
    }

    #[test]
    fn this_thread_is_in_no_sync() {
        let thread_id = u64::from(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());
        let pid_tgid = u64::from(std::process::id()) << 32 | thread_id;
        let fdatasync = OPERATIONS.iter().position(|(_, op)| *op == Op::Fdatasync).unwrap();
        let thread = Thread {
            key: ThreadKey { pid_tgid, started_ns: 1 },
            started_ns: 1,
            series: u32::try_from(fdatasync).unwrap(),
            ..Thread::NONE
        };
        assert!(!may_be_in_syscall(&thread), "it reads its own file, so it is in a read");
        let ended =
            Thread { key: ThreadKey { pid_tgid: u64::from(u32::MAX) << 32, started_ns: 1 }, ..thread };
        assert!(!may_be_in_syscall(&ended), "no such thread");
    }
}
