//! State that the kernel programs keep between system calls, per process, per thread and per open database.

/// Flag of kernel threads in `task_struct.flags` and in field 9 of `/proc/PID/stat` (include/linux/sched.h;
/// the same from Linux 5.10 to 7.2).
pub const PF_KTHREAD: u32 = 0x0020_0000;

/// Threads of all targets at once. Go starts one per blocked system call, a few dozen in total.
pub const THREADS: u32 = 1024;

/// Databases that one process may have open at once: the one in use and, briefly, the one that it replaces.
pub const BACKENDS: usize = 4;

/// One etcd process. The daemon maps these and reads them without a system call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Start of the process, ns since boot; 0 while the entry is free. Together with `tgid` it identifies one
    /// incarnation: the kernel reuses process ids.
    pub started_ns: u64,
    /// Inode of the WAL directory, known from the first operation on a segment in it; 0 before.
    pub wal_dir_inode: u64,
    /// Inode of its parent, which etcd syncs once, when it creates its WAL.
    pub wal_parent_inode: u64,
    /// When the rotation in progress began; 0 if none.
    pub cut_started_ns: u64,
    pub backends: [Backend; BACKENDS],
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Device of the WAL directory: the kernel's `s_dev`, major << 20 | minor.
    pub wal_dev: u32,
}

const _: () = assert!(size_of::<Target>() == 40 + BACKENDS * size_of::<Backend>(), "no padding allowed");

/// One database file of a process, and the state of its transaction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// 0 while the entry is free.
    pub inode: u64,
    /// First write of the transaction in progress; 0 if none.
    pub commit_started_ns: u64,
    /// Time of the last write.
    pub used_ns: u64,
    pub dev: u32,
    /// Length of the last meta page that was written; 0 before the first.
    pub page_bytes: u32,
    /// 1 from the write of the meta page to the end of the sync that makes it durable.
    pub meta_written: u64,
}

const _: () = assert!(size_of::<Backend>() == 40, "no padding allowed");

/// Identifies one incarnation of a thread: the kernel reuses thread ids, but not with the same start time.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadKey {
    /// Process id in the upper half, thread id in the lower.
    pub pid_tgid: u64,
    /// ns since boot
    pub started_ns: u64,
}

/// Identifies one incarnation of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessKey {
    /// ns since boot
    pub started_ns: u64,
    pub tgid: u64,
}

/// A thread and its operation in flight. The entry stays between operations; only `started_ns` is cleared.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    pub key: ThreadKey,
    /// Start of the operation; 0 if none is in flight.
    pub started_ns: u64,
    /// Inode of the database, for an operation on one.
    pub inode: u64,
    pub target: u32,
    /// Index in [`crate::series::OPERATIONS`], or [`NO_SERIES`].
    pub series: u32,
    /// Index of that database in [`Target::backends`].
    pub backend: u32,
    /// Composite events that this operation completes: `COMPLETES_*`.
    pub completes: u32,
    /// Programs that were called at the entry of the current system call, traced or not: [`PRIMARY`],
    /// [`SECONDARY`].
    pub seen_enter: u32,
    /// Programs that were called at the exit of the last system call.
    pub seen_exit: u32,
    /// Scheduler statistics of the thread at the start of the operation.
    pub sched_stats: SchedStats,
    /// Offset in the file, for calls that take one.
    pub offset: u64,
    /// File descriptor of the operation.
    pub descriptor: u32,
    /// Index of this entry in the array.
    pub index: u32,
    /// Block requests that the thread queued during the operation, and how many of them flush.
    pub requests: u32,
    pub flushes: u32,
    /// The event that was counted last.
    pub ended: EndedEvent,
    /// Files that the thread used, by the lowest bits of their descriptors.
    pub files: [CachedFile; CACHED_FILES],
}

const _: () = assert!(size_of::<Thread>() == 296, "no padding allowed");

/// An event as it is counted.
///
/// It is written to memory and read back, so that the verifier drops its state of the many paths on which the
/// values were computed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndedEvent {
    pub latency_ns: u64,
    /// Slot of that latency, computed once because it takes a division.
    pub slot: u64,
    pub bytes: u64,
    pub split: Split,
}

/// Files that are cached per thread: a segment, the database, and two further descriptors.
pub const CACHED_FILES: usize = 4;

/// A file whose role was resolved, so that the next operation need not walk to its names again.
///
/// A hit requires the same `dentry`, the same hash of its name and the same `inode`. The hash changes with a
/// rename and depends on the directory (`full_name_hash` and `d_move`, `fs/dcache.c`, Linux 5.10 to 7.2). The
/// facts about the directory hold for as long as it has that `dentry`. A database that is removed and created
/// again under its name may get all three: it continues as the old one, which had no transaction in progress
/// then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedFile {
    /// Address of the kernel's `dentry`; 0 if the entry is empty.
    pub dentry: u64,
    /// `dentry.d_name.hash_len`
    pub hash_len: u64,
    /// Address of the kernel's `inode`.
    pub inode_address: u64,
    /// Inode number and device; of databases only.
    pub inode: u64,
    pub dev: u32,
    /// [`crate::file_name::ParsedName`], packed; or why an operation on the file is not counted: [`FOREIGN`],
    /// [`UNREADABLE`].
    pub parsed_name: u32,
}

/// `CachedFile::parsed_name`: a segment outside the WAL directory.
pub const FOREIGN: u32 = 1 << 8;
/// `CachedFile::parsed_name`: the file could not be read; the next operation resolves it again.
pub const UNREADABLE: u32 = 1 << 9;
/// `CachedFile::parsed_name`: the name implies no role, so the file may be a directory of the WAL.
pub const UNNAMED: u32 = 1 << 10;

const _: () = assert!(size_of::<CachedFile>() == 40, "no padding allowed");

/// Time that the scheduler has accounted to a thread since it started.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedStats {
    /// `se.sum_exec_runtime`: as of the last tick or switch.
    pub exec_ns: u64,
    /// `sched_info.run_delay`: exact, because the wait ends with a switch.
    pub run_delay_ns: u64,
}

/// How an operation spent its time; the rest of the latency is blocked time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub on_cpu_ns: u64,
    pub run_queue_ns: u64,
}

impl Split {
    /// Splits a latency by the scheduler statistics before and after it. The parts never exceed the whole.
    ///
    /// The kernel updates the time on a CPU at ticks and switches only, so this part is off by up to a tick
    /// (1 to 10 ms) either way: by what the thread ran since its last switch, which is little for a thread
    /// that blocks.
    #[inline(always)]
    pub const fn of(latency_ns: u64, before: SchedStats, after: SchedStats) -> Self {
        let run_queue_ns = least(after.run_delay_ns.saturating_sub(before.run_delay_ns), latency_ns);
        let on_cpu_ns = least(after.exec_ns.saturating_sub(before.exec_ns), latency_ns - run_queue_ns);
        Self { on_cpu_ns, run_queue_ns }
    }
}

const fn least(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

/// A kernel stack and how long a thread was blocked with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// Id of the stack in the map of stack traces; [`NO_STACK`] if it could not be taken.
    pub stack: u32,
    /// µs
    pub blocked_us: u32,
}

/// `Wait::stack`: the map was full, or the stack could not be walked.
pub const NO_STACK: u32 = u32::MAX;

/// Stacks that are recorded separately per operation; the last entry holds the sum of all further ones.
pub const WAITS: usize = 8;

/// The waits of a thread in its operation in flight; recorded with `--causes exact` only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadWaits {
    /// When the thread last left its CPU blocked; 0 if it did not.
    pub switched_out_ns: u64,
    /// `sched_info.run_delay` at that time.
    pub switched_out_run_delay_ns: u64,
    /// Time off the CPU until it was switched in, including the wait in the run queue; 0 once it has been
    /// added.
    pub off_cpu_ns: u64,
    pub switched_out_stack: u32,
    pub used: u32,
    pub waits: [Wait; WAITS],
}

const _: () = assert!(size_of::<ThreadWaits>() == 32 + 8 * WAITS, "no padding allowed");

/// An operation that took longer than the threshold, emitted when it ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowEvent {
    pub started_ns: u64,
    pub latency_ns: u64,
    pub split: Split,
    pub bytes: u64,
    /// Offset in the file; [`NO_OFFSET`] for a call without one.
    pub offset: u64,
    pub inode: u64,
    pub target: u32,
    pub series: u32,
    /// Index of the thread, and its thread id.
    pub thread: u32,
    pub thread_id: u32,
    pub requests: u32,
    pub flushes: u32,
    /// Positive, as in `errno.h`; 0 if the call succeeded.
    pub errno: u32,
    /// How many of `waits` are used.
    pub used: u32,
    pub waits: [Wait; WAITS],
}

const _: () = assert!(size_of::<SlowEvent>() == 88 + 8 * WAITS, "no padding allowed");

impl SlowEvent {
    /// An event without content.
    pub const NONE: Self = Self {
        started_ns: 0,
        latency_ns: 0,
        split: Split { on_cpu_ns: 0, run_queue_ns: 0 },
        bytes: 0,
        offset: NO_OFFSET,
        inode: 0,
        target: 0,
        series: 0,
        thread: 0,
        thread_id: 0,
        requests: 0,
        flushes: 0,
        errno: 0,
        used: 0,
        waits: [Wait { stack: NO_STACK, blocked_us: 0 }; WAITS],
    };
}

/// `SlowEvent::offset` of a call on the whole file.
pub const NO_OFFSET: u64 = u64::MAX;

impl Thread {
    /// A thread without an operation in flight.
    pub const NONE: Self = Self {
        key: ThreadKey { pid_tgid: 0, started_ns: 0 },
        started_ns: 0,
        inode: 0,
        target: 0,
        series: 0,
        backend: 0,
        completes: 0,
        seen_enter: 0,
        seen_exit: 0,
        sched_stats: SchedStats { exec_ns: 0, run_delay_ns: 0 },
        offset: 0,
        descriptor: 0,
        index: 0,
        requests: 0,
        flushes: 0,
        ended: EndedEvent {
            latency_ns: 0,
            slot: 0,
            bytes: 0,
            split: Split { on_cpu_ns: 0, run_queue_ns: 0 },
        },
        files: [CachedFile { dentry: 0, hash_len: 0, inode_address: 0, inode: 0, dev: 0, parsed_name: 0 };
            CACHED_FILES],
    };

    /// Records that a program was called at an entry; returns whether it is the first of the two programs at
    /// this call.
    #[inline(always)]
    pub fn record_enter(&mut self, program: u32) -> bool {
        self.seen_exit = 0;
        add_program(&mut self.seen_enter, program)
    }

    /// Records that a program was called at an exit; returns whether it is the first of the two programs at
    /// this call.
    #[inline(always)]
    pub fn record_exit(&mut self, program: u32) -> bool {
        self.seen_enter = 0;
        add_program(&mut self.seen_exit, program)
    }
}

/// Adds a program to the set that was called; a program that is in the set already starts the set of the next
/// call.
#[inline(always)]
fn add_program(seen: &mut u32, program: u32) -> bool {
    let is_second = *seen != 0 && *seen & program == 0;
    *seen = if is_second { *seen | program } else { program };
    !is_second
}

/// One of the two programs on every hook.
pub const PRIMARY: u32 = 1;
/// The other one. The kernel skips a program that is already running on the same CPU, which it does for as
/// long as another thread is preempted within the program: on fentry in any preemptible kernel, on syscall
/// tracepoints since Linux 57918341dd19. It skips each program separately, so one of the two runs when the
/// other is skipped.
pub const SECONDARY: u32 = 2;

/// `Thread::series` of an operation on a file that is not measured.
pub const NO_SERIES: u32 = u32::MAX;

/// `Thread::completes`: an observation of `etcd_disk_wal_fsync_duration_seconds`.
pub const COMPLETES_WAL_FSYNC: u32 = 1;
/// `Thread::completes`: that observation, even if the call fails (etcd's `wal.sync()` observes before it
/// returns the error).
pub const COMPLETES_WAL_FSYNC_ALWAYS: u32 = 2;
/// `Thread::completes`: the rotation in progress, if there is one.
pub const COMPLETES_ROTATION: u32 = 4;
/// `Thread::completes`: the write of a meta page.
pub const COMPLETES_META: u32 = 8;
/// `Thread::completes`: an observation of `etcd_disk_backend_commit_duration_seconds`.
pub const COMPLETES_COMMIT: u32 = 16;

/// A failed operation, counted by series and error.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorKey {
    pub target: u32,
    pub series: u32,
    /// Positive, as in `errno.h`.
    pub errno: u32,
}

/// One latency as the histograms counted it, for tests that build them again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Time of the record, shortly after the end of the event.
    pub recorded_ns: u64,
    pub latency_ns: u64,
    pub target: u32,
    pub series: u32,
}

#[cfg(feature = "user")]
mod pod {
    use super::{Backend, ErrorKey, ProcessKey, Record, SlowEvent, Target, Thread, ThreadKey, ThreadWaits};

    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for Backend {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for ErrorKey {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for ProcessKey {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for Record {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for Target {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for Thread {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for ThreadKey {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for SlowEvent {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for ThreadWaits {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_record_each_call_once() {
        let (a, b) = (PRIMARY, SECONDARY);
        let cases = [
            (&[a, b][..], &[a, b][..], 1, 1, "both run at both ends"),
            (&[b, a], &[b, a], 1, 1, "in the other order"),
            (&[b], &[a, b], 1, 1, "one was skipped at the entry"),
            (&[a, b], &[b], 1, 1, "one was skipped at the exit"),
            (&[b], &[a], 1, 1, "each was skipped once"),
            (&[], &[a, b], 0, 1, "both were skipped: an exit without an entry, recorded once"),
            (&[a, b], &[], 1, 0, "both were skipped: the next entry is a new call"),
        ];
        for (enters, exits, begun, ended, why) in cases {
            let mut thread = Thread::NONE;
            // The state that one call leaves must not affect the next.
            for round in 0..3 {
                let began = enters.iter().filter(|program| thread.record_enter(**program)).count();
                assert_eq!(began, begun, "round {round}: {why}");
                let over = exits.iter().filter(|program| thread.record_exit(**program)).count();
                assert_eq!(over, ended, "round {round}: {why}");
            }
        }
    }

    #[test]
    fn a_call_without_a_recorded_exit_does_not_hide_the_next() {
        let mut thread = Thread::NONE;
        assert!(thread.record_enter(PRIMARY));
        assert!(!thread.record_enter(SECONDARY));
        assert!(thread.record_enter(PRIMARY), "the next call, though the last one seems to be in flight");
        assert!(!thread.record_enter(SECONDARY), "and once, not twice");
    }

    #[test]
    fn parts_never_exceed_the_whole() {
        let stats = |exec_ns, run_delay_ns| SchedStats { exec_ns, run_delay_ns };
        let cases = [
            (100, stats(10, 20), stats(30, 50), (20, 30), "the other half is blocked time"),
            (100, stats(0, 0), stats(500, 0), (100, 0), "a tick accounts for earlier time, too"),
            (100, stats(0, 0), stats(90, 90), (10, 90), "the exact part takes precedence"),
            (100, stats(0, 0), stats(0, 900), (0, 100), "a broken clock"),
            (100, stats(9, 9), stats(0, 0), (0, 0), "statistics that fall"),
        ];
        for (latency_ns, before, after, (on_cpu_ns, run_queue_ns), why) in cases {
            assert_eq!(Split::of(latency_ns, before, after), Split { on_cpu_ns, run_queue_ns }, "{why}");
        }
    }
}
