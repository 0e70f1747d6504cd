//! Operations that have begun and not returned.

use std::{fs, io};

use probe_ebpf::{
    series::{OPERATIONS, Op},
    state::{NO_SERIES, Thread},
};

use super::{Kernel, mmap_array::Mapped, monotonic_ns};

/// What seems to hang for longer than this is looked at: the kernel may not have run the program that was to see its end.
const LOOKED_AT_NS: u64 = 500_000_000;

/// An operation that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    pub target: u32,
    /// Its position in `OPERATIONS`.
    pub series: u32,
    pub age_ns: u64,
}

impl Kernel {
    /// Returns the operations that have begun and not returned.
    pub fn in_flight(&self) -> Vec<InFlight> {
        let now_ns = monotonic_ns();
        in_operation(&self.threads, taken(&self.threads))
            .map(|thread| (thread, now_ns.saturating_sub(thread.started_ns)))
            .filter(|(thread, age_ns)| *age_ns < LOOKED_AT_NS || is_in_call(thread))
            .map(|(thread, age_ns)| InFlight { target: thread.target, series: thread.series, age_ns })
            .collect()
    }
}

/// The word of a [`Thread`] that holds when its operation began.
const STARTED_NS: usize = 2;

const _: () = assert!(std::mem::offset_of!(Thread, started_ns) == 8 * STARTED_NS, "the third word");

/// Returns the positions that threads have.
pub(super) fn taken(threads: &Mapped<Thread>) -> impl Iterator<Item = u32> {
    // The process and thread numbers come first, and are 0 where nobody is.
    (0..threads.length()).filter(|index| threads.word(*index, 0) != 0)
}

/// Returns those of the threads at these positions that are in an operation; of all others one word is looked at.
pub(super) fn in_operation(
    threads: &Mapped<Thread>,
    positions: impl Iterator<Item = u32>,
) -> impl Iterator<Item = Thread> {
    let began = positions.filter(|index| threads.word(*index, STARTED_NS) != 0);
    let read = began.map(|index| threads.read(index));
    read.filter(|thread| thread.started_ns != 0 && thread.series != NO_SERIES)
}

/// Returns whether a thread still is in the system call of its operation, as far as can be told.
fn is_in_call(thread: &Thread) -> bool {
    let Some((_, op)) = OPERATIONS.get(thread.series as usize) else { return true };
    let (pid, thread_id) = (thread.key.pid_tgid >> 32, thread.key.pid_tgid & 0xffff_ffff);
    match fs::read_to_string(format!("/proc/{pid}/task/{thread_id}/syscall")) {
        Ok(text) => may_be_in(&text, *op),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Reads `/proc/PID/task/TID/syscall`: the number of the call that a thread waits in and its arguments, or `running`, which
/// tells nothing (`proc_pid_syscall` in `fs/proc/base.c`).
fn may_be_in(text: &str, op: Op) -> bool {
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
    fn who_waits_in_another_call_has_left_this_one() {
        let call = |number: i64| format!("{number} 0x7 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f1c\n");
        let cases = [
            (call(libc::SYS_fdatasync), true, "in this very call"),
            (call(libc::SYS_futex), false, "Go has parked the thread"),
            ("-1 0x7ffd 0x7f1c\n".to_owned(), false, "in no call at all"),
            ("running\n".to_owned(), true, "on a CPU, so who knows"),
            (String::new(), true, "nothing to read"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(may_be_in(&text, Op::Fdatasync), expected, "{why}");
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
        assert!(!is_in_call(&thread), "it reads what it is in, which is a read");
        let gone = Thread { key: ThreadKey { pid_tgid: u64::from(u32::MAX) << 32, started_ns: 1 }, ..thread };
        assert!(!is_in_call(&gone), "there is no such thread");
    }
}
