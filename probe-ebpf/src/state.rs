//! What the kernel remembers between system calls: of each process, of each thread, of each open database.

/// Threads of all targets at once. Go starts one per blocked system call, a few dozen in total.
pub const THREADS: u32 = 1024;

/// `PF_KTHREAD`, the flag of kernel threads in include/linux/sched.h: the same from 5.10 to 7.2.
pub const PF_KTHREAD: u32 = 0x0020_0000;

/// Databases that one process may have open at once: the one in use and, for a moment, the one it replaces.
pub const BACKENDS: usize = 4;

/// One etcd process. The daemon maps these and reads them without a system call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Start of the process, ns since boot; 0 while the entry is free. With `tgid` it tells one life of a process
    /// from another that got the same number.
    pub started_ns: u64,
    /// Inode of the WAL directory, known from the first segment seen in it; 0 before.
    pub wal_dir_inode: u64,
    /// Inode of the directory above, which etcd syncs once, when it creates its WAL.
    pub wal_parent_inode: u64,
    /// When the rotation in progress began; 0 if none.
    pub cut_started_ns: u64,
    pub backends: [Backend; BACKENDS],
    /// Process, as the initial pid namespace numbers it.
    pub tgid: u32,
    /// Device of the WAL directory: the kernel's `s_dev`, major << 20 | minor.
    pub wal_dev: u32,
}

const _: () = assert!(size_of::<Target>() == 40 + BACKENDS * size_of::<Backend>(), "no padding allowed");

/// One database file of a process, and where its transaction stands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// 0 while the entry is free.
    pub inode: u64,
    /// First write of the transaction in progress; 0 if none.
    pub commit_started_ns: u64,
    /// When it was last written.
    pub used_ns: u64,
    pub dev: u32,
    /// Length of the last meta page seen; 0 before.
    pub page_bytes: u32,
    /// 1 from the write of the meta page to the end of the sync that makes it durable.
    pub meta_written: u64,
}

const _: () = assert!(size_of::<Backend>() == 40, "no padding allowed");

/// Identifies one life of one thread: numbers are used again, start times are not.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadKey {
    /// Process in the upper half, thread in the lower.
    pub pid_tgid: u64,
    /// ns since boot
    pub started_ns: u64,
}

/// Identifies one life of one process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessKey {
    /// ns since boot
    pub started_ns: u64,
    pub tgid: u64,
}

/// The operation that a thread is in. It is never removed between operations, only cleared.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    pub key: ThreadKey,
    /// When the operation began; 0 if none is in flight.
    pub started_ns: u64,
    /// Database of the operation, for operations on one.
    pub inode: u64,
    pub target: u32,
    /// Its position in [`crate::series::OPERATIONS`], or [`UNKNOWN`].
    pub series: u32,
    /// Position of that database among those of its target.
    pub backend: u32,
    /// What else ends with this operation: `ENDS_*`.
    pub ends: u32,
    /// Which programs saw the call that is under way begin, be it an operation or not: [`FIRST`], [`SPARE`].
    pub saw_begin: u32,
    /// Which programs saw the last call end.
    pub saw_end: u32,
    /// The thread's account when the operation began.
    pub account: Account,
    /// Where in the file, for calls that say so.
    pub offset: u64,
    /// The file of the operation.
    pub descriptor: u32,
    /// Its own position in the array.
    pub index: u32,
    /// Block requests that it queued in the operation, and those of them that flush.
    pub requests: u32,
    pub flushes: u32,
    /// What was counted last.
    pub ended: Ended,
    /// Files that it used, by the lowest bits of their descriptors.
    pub files: [KnownFile; KNOWN_FILES],
}

const _: () = assert!(size_of::<Thread>() == 296, "no padding allowed");

/// An event as it is counted.
///
/// It is written to memory and read back, so that the verifier forgets the many ways on which its numbers came about.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub latency_ns: u64,
    /// Of that latency: reckoned once, for it takes a division.
    pub slot: u64,
    pub bytes: u64,
    pub split: Split,
}

/// Files that are remembered of each thread: a segment, the database, and what two descriptors more may be.
pub const KNOWN_FILES: usize = 4;

/// A file whose role has been found out, so that the next operation need not walk to its names again.
///
/// It is known again by its `dentry`, the hash of its name, which a rename changes and which depends on the directory
/// (`full_name_hash` and `d_move`, `fs/dcache.c`, Linux 5.10 to 7.2), and the `inode`. What is known of the directory holds for as long
/// as it has that `dentry`. A database that is removed and made anew under its name may get all three: it goes on as the old one,
/// which had no transaction in progress then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownFile {
    /// Address of the kernel's `dentry`; 0 if there is none.
    pub dentry: u64,
    /// `dentry.d_name.hash_len`
    pub hash_len: u64,
    /// Address of the kernel's `inode`.
    pub inode_address: u64,
    /// Its number and its device; of databases only.
    pub inode: u64,
    pub dev: u32,
    /// [`crate::name::Named`], packed; or why an operation on it counts as nothing: [`FOREIGN`], [`UNREADABLE`].
    pub named: u32,
}

/// `KnownFile::named`: a segment outside the WAL's directory.
pub const FOREIGN: u32 = 1 << 8;
/// `KnownFile::named`: the file could not be read; it is looked at again the next time.
pub const UNREADABLE: u32 = 1 << 9;
/// `KnownFile::named`: its name says nothing, so it may be a directory of the WAL's.
pub const UNNAMED: u32 = 1 << 10;

const _: () = assert!(size_of::<KnownFile>() == 40, "no padding allowed");

/// What the kernel has accounted to a thread in its life.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// `se.sum_exec_runtime`: as of the last tick or switch.
    pub exec_ns: u64,
    /// `sched_info.run_delay`: exact, for it ends with a switch.
    pub run_delay_ns: u64,
}

/// How the time of an operation was spent; what is left was spent blocked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub on_cpu_ns: u64,
    pub run_queue_ns: u64,
}

impl Split {
    /// Splits an operation by the thread's account before and after it. The parts never exceed the whole.
    ///
    /// The account of the time on a processor is brought up to date by ticks and switches only, so the part is off by up to a
    /// tick (1 to 10 ms) either way; by what the thread ran since its last switch, which for one that blocks is little.
    #[inline(always)]
    pub const fn of(latency_ns: u64, before: Account, after: Account) -> Self {
        let run_queue_ns = least(after.run_delay_ns.saturating_sub(before.run_delay_ns), latency_ns);
        let on_cpu_ns = least(after.exec_ns.saturating_sub(before.exec_ns), latency_ns - run_queue_ns);
        Self { on_cpu_ns, run_queue_ns }
    }
}

const fn least(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

/// A stack and how long a thread was blocked with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// Its number in the table of stacks; [`NO_STACK`] if it could not be taken.
    pub stack: u32,
    /// µs
    pub blocked_us: u32,
}

/// `Wait::stack`: the table was full, or the stack could not be walked.
pub const NO_STACK: u32 = u32::MAX;

/// Stacks that one operation's waits are told apart by; the last place holds all that are more.
pub const WAITS: usize = 8;

/// What a thread waited for in the operation that it is in; kept with `--causes exact` only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// When it last left its processor, blocked; 0 if it did not.
    pub left_ns: u64,
    /// `sched_info.run_delay` then.
    pub left_run_delay_ns: u64,
    /// How long it was away, waiting for a processor included, until it came back; 0 if that is settled.
    pub away_ns: u64,
    pub left_stack: u32,
    pub used: u32,
    pub waits: [Wait; WAITS],
}

const _: () = assert!(size_of::<Waits>() == 32 + 8 * WAITS, "no padding allowed");

/// An operation that took longer than the threshold, sent when it ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowRecord {
    pub started_ns: u64,
    pub latency_ns: u64,
    pub split: Split,
    pub bytes: u64,
    /// Where in the file; [`NO_OFFSET`] where a call has no such thing.
    pub offset: u64,
    pub inode: u64,
    pub target: u32,
    pub series: u32,
    /// Position among the threads, and the thread's number.
    pub thread: u32,
    pub thread_id: u32,
    pub requests: u32,
    pub flushes: u32,
    /// Positive, as in `errno.h`; 0 if it succeeded.
    pub errno: u32,
    /// How many of the waits are used.
    pub used: u32,
    pub waits: [Wait; WAITS],
}

const _: () = assert!(size_of::<SlowRecord>() == 88 + 8 * WAITS, "no padding allowed");

impl SlowRecord {
    /// One that tells nothing.
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

/// `SlowRecord::offset` of a call that is on the whole file.
pub const NO_OFFSET: u64 = u64::MAX;

impl Thread {
    /// One that is in no operation.
    pub const NONE: Self = Self {
        key: ThreadKey { pid_tgid: 0, started_ns: 0 },
        started_ns: 0,
        inode: 0,
        target: 0,
        series: 0,
        backend: 0,
        ends: 0,
        saw_begin: 0,
        saw_end: 0,
        account: Account { exec_ns: 0, run_delay_ns: 0 },
        offset: 0,
        descriptor: 0,
        index: 0,
        requests: 0,
        flushes: 0,
        ended: Ended { latency_ns: 0, slot: 0, bytes: 0, split: Split { on_cpu_ns: 0, run_queue_ns: 0 } },
        files: [KnownFile { dentry: 0, hash_len: 0, inode_address: 0, inode: 0, dev: 0, named: 0 };
            KNOWN_FILES],
    };

    /// Notes that a program sees a call begin; returns whether that is news, or the other program has seen it already.
    #[inline(always)]
    pub fn begins(&mut self, program: u32) -> bool {
        self.saw_end = 0;
        see(&mut self.saw_begin, program)
    }

    /// Notes that a program sees a call end; returns whether that is news, or the other program has seen it already.
    #[inline(always)]
    pub fn ends(&mut self, program: u32) -> bool {
        self.saw_begin = 0;
        see(&mut self.saw_end, program)
    }
}

/// Adds a program to those that saw something; one that saw it before sees the next.
#[inline(always)]
fn see(saw: &mut u32, program: u32) -> bool {
    let told = *saw != 0 && *saw & program == 0;
    *saw = if told { *saw | program } else { program };
    !told
}

/// One of the two programs on every hook.
pub const FIRST: u32 = 1;
/// The other one. The kernel skips a program that is under way on the same processor, as it is for as long as somebody else is
/// preempted within it: on fentry in any preemptible kernel, on syscall tracepoints since Linux 57918341dd19. It skips each
/// program on its own, so what one does not see the other does.
pub const SPARE: u32 = 2;

/// `Thread::series` of an operation on a file that is none of ours.
pub const UNKNOWN: u32 = u32::MAX;

/// `Thread::ends`: an observation of `etcd_disk_wal_fsync_duration_seconds`.
pub const ENDS_WAL_FSYNC: u32 = 1;
/// `Thread::ends`: that observation, even if the call fails (etcd's `wal.sync()` observes before it returns the error).
pub const ENDS_WAL_FSYNC_ALWAYS: u32 = 2;
/// `Thread::ends`: the rotation in progress, if there is one.
pub const ENDS_ROTATION: u32 = 4;
/// `Thread::ends`: the write of a meta page.
pub const ENDS_META: u32 = 8;
/// `Thread::ends`: an observation of `etcd_disk_backend_commit_duration_seconds`.
pub const ENDS_COMMIT: u32 = 16;

/// A failed operation, counted by what it was and how it failed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorKey {
    pub target: u32,
    pub series: u32,
    /// Positive, as in `errno.h`.
    pub errno: u32,
}

/// One latency as the histograms took it, for tests that fold them anew.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was recorded, shortly after its end.
    pub recorded_ns: u64,
    pub latency_ns: u64,
    pub target: u32,
    pub series: u32,
}

#[cfg(feature = "user")]
mod pod {
    use super::{Backend, ErrorKey, ProcessKey, Record, SlowRecord, Target, Thread, ThreadKey, Waits};

    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for Backend {}
    // SAFETY: see above.
    unsafe impl aya::Pod for ErrorKey {}
    // SAFETY: see above.
    unsafe impl aya::Pod for ProcessKey {}
    // SAFETY: see above.
    unsafe impl aya::Pod for Record {}
    // SAFETY: see above.
    unsafe impl aya::Pod for Target {}
    // SAFETY: see above.
    unsafe impl aya::Pod for Thread {}
    // SAFETY: see above.
    unsafe impl aya::Pod for ThreadKey {}
    // SAFETY: see above.
    unsafe impl aya::Pod for SlowRecord {}
    // SAFETY: see above.
    unsafe impl aya::Pod for Waits {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_tell_of_each_call_once() {
        let (a, b) = (FIRST, SPARE);
        let cases = [
            (&[a, b][..], &[a, b][..], 1, 1, "both see both"),
            (&[b, a], &[b, a], 1, 1, "in the other order"),
            (&[b], &[a, b], 1, 1, "one was skipped at the beginning"),
            (&[a, b], &[b], 1, 1, "one was skipped at the end"),
            (&[b], &[a], 1, 1, "each was skipped once"),
            (&[], &[a, b], 0, 1, "both were skipped: an end without a beginning, told once"),
            (&[a, b], &[], 1, 0, "both were skipped: the next beginning is news"),
        ];
        for (enters, exits, begun, ended, why) in cases {
            let mut thread = Thread::NONE;
            // The state that one call leaves must not mislead the next.
            for round in 0..3 {
                let began = enters.iter().filter(|program| thread.begins(**program)).count();
                assert_eq!(began, begun, "round {round}: {why}");
                let over = exits.iter().filter(|program| thread.ends(**program)).count();
                assert_eq!(over, ended, "round {round}: {why}");
            }
        }
    }

    #[test]
    fn a_call_whose_end_nobody_saw_does_not_hide_the_next() {
        let mut thread = Thread::NONE;
        assert!(thread.begins(FIRST));
        assert!(!thread.begins(SPARE));
        assert!(thread.begins(FIRST), "the next call, though the last one seems to be under way");
        assert!(!thread.begins(SPARE), "and once, not twice");
    }

    #[test]
    fn parts_never_exceed_the_whole() {
        let account = |exec_ns, run_delay_ns| Account { exec_ns, run_delay_ns };
        let cases = [
            (100, account(10, 20), account(30, 50), (20, 30), "half of it is left: blocked"),
            (100, account(0, 0), account(500, 0), (100, 0), "a tick's worth of what was before it"),
            (100, account(0, 0), account(90, 90), (10, 90), "the exact part is believed first"),
            (100, account(0, 0), account(0, 900), (0, 100), "a clock gone wrong"),
            (100, account(9, 9), account(0, 0), (0, 0), "an account that falls"),
        ];
        for (latency_ns, before, after, (on_cpu_ns, run_queue_ns), why) in cases {
            assert_eq!(Split::of(latency_ns, before, after), Split { on_cpu_ns, run_queue_ns }, "{why}");
        }
    }
}
