//! The self-test, a test with a known result: the probe issues etcd's system calls itself, and all of them
//! must be counted.
//!
//! They take the same path as every event: the same programs on the same hook detect name, directory, role,
//! commit and rotation. So a detached hook, a full map and a wrong offset all make the test fail.

use std::{fmt, io, thread};

use probe_ebpf::series::{
    BACKEND_COMMIT, META_COMMIT, OPERATIONS, Op, Role, SERIES, WAL_FSYNC, WAL_ROTATION, series,
};

use super::{Kernel, KernelError, monotonic_ns};
pub(super) use workload::Workload;

mod workload;

/// The kernel may skip a program occasionally (see [`Kernel::skipped_runs`], which does not cover tracepoints
/// before Linux 6.7). A detached hook fails three times in a row.
const ATTEMPTS: u32 = 3;

/// Why the measurements of the probe cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    #[error("cannot create files for the self-test; one of {directories} must be writable and in memory")]
    NoDirectory { directories: &'static str, source: io::Error },
    #[error("cannot {0} a file of the self-test")]
    Failed(&'static str, #[source] io::Error),
    #[error("cannot measure through the {hook} hook: wrong self-test counts: {differences}")]
    Blind { hook: &'static str, differences: Differences },
    #[error("cannot make the programs measure the self-test")]
    Kernel(#[source] Box<KernelError>),
}

/// Counts that differ from the workload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences(Vec<Difference>);

#[derive(Debug, PartialEq, Eq)]
struct Difference {
    what: String,
    expected: u64,
    counted: u64,
}

/// Totals of one series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SeriesTotals {
    count: u64,
    bytes: u64,
    sum_ns: u64,
}

impl Kernel {
    /// Issues etcd's system calls on the probe's own files, and compares the counts.
    ///
    /// Takes well below a millisecond, and leaves nothing behind except an index in use among the targets.
    ///
    /// # Errors
    /// If an event was not counted, was counted twice or with an impossibly long duration, or if the test
    /// cannot run.
    pub fn self_test(&mut self) -> Result<(), SelfTestError> {
        let mut workload = match self.workload.take() {
            Some(workload) => workload,
            None => Workload::prepare()?,
        };
        let mut outcome = self.attempt(&mut workload);
        for _ in 1..ATTEMPTS {
            if matches!(outcome, Ok(ref differences) if !differences.0.is_empty()) {
                outcome = self.attempt(&mut workload);
            }
        }
        self.workload = Some(workload);
        let differences = outcome?;
        if differences.0.is_empty() {
            return Ok(());
        }
        Err(SelfTestError::Blind { hook: self.hook.as_str(), differences })
    }

    /// Runs the workload once, on a new thread. A thread that is new to the programs takes a free index, as
    /// etcd's threads do.
    fn attempt(&mut self, workload: &mut Workload) -> Result<Differences, SelfTestError> {
        let in_kernel = |error| SelfTestError::Kernel(Box::new(error));
        let pid = std::process::id();
        self.watch(pid, true).map_err(in_kernel)?;
        let before = self.own_totals();
        let began_ns = monotonic_ns();
        let ran = thread::scope(|scope| {
            let builder = thread::Builder::new().name("self-test".to_owned());
            let runner = builder.spawn_scoped(scope, || workload.run());
            let runner = runner.map_err(|error| SelfTestError::Failed("start a thread for", error))?;
            runner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let took_ns = monotonic_ns() - began_ns;
        let after = self.own_totals();
        self.watch(pid, false).map_err(in_kernel)?;
        self.release_own_threads().map_err(in_kernel)?;
        ran?;
        Ok(compare(&before, &after, took_ns))
    }

    /// Returns the totals of the probe's own process; all 0 if the programs have not recorded the process
    /// yet.
    fn own_totals(&self) -> [SeriesTotals; SERIES as usize] {
        let Some(own) = self.own_target() else { return [SeriesTotals::default(); SERIES as usize] };
        let mut series = 0..;
        [(); SERIES as usize].map(|()| {
            let latencies = self.latencies(own, series.next().unwrap_or_default());
            SeriesTotals { count: latencies.count(), bytes: latencies.bytes, sum_ns: latencies.sum_ns }
        })
    }

    /// Returns the index of the self-test among the targets; it never belongs to a member.
    fn own_target(&self) -> Option<u32> {
        self.processes().into_iter().find(|process| process.pid == std::process::id()).map(|own| own.target)
    }

    fn release_own_threads(&mut self) -> Result<(), KernelError> {
        match self.own_target() {
            Some(own) => self.release_threads(own),
            None => Ok(()),
        }
    }
}

/// Compares the counts with the events of [`Workload::run`].
fn compare(
    before: &[SeriesTotals; SERIES as usize],
    after: &[SeriesTotals; SERIES as usize],
    took_ns: u64,
) -> Differences {
    let mut differences = Vec::new();
    for (index, (before, after)) in (0..).zip(before.iter().zip(after)) {
        let (count, bytes) = expected(index);
        let mut differs = |what: &str, expected: u64, counted: u64| {
            differences.push(Difference { what: format!("{}{what}", name(index)), expected, counted });
        };
        if after.count - before.count != count {
            differs("", count, after.count - before.count);
        }
        if after.bytes - before.bytes != bytes {
            differs(" (bytes)", bytes, after.bytes - before.bytes);
        }
        if after.sum_ns - before.sum_ns > took_ns {
            differs(" (ns, upper limit)", took_ns, after.sum_ns - before.sum_ns);
        }
    }
    Differences(differences)
}

/// Returns the number of events and of bytes written that one run of the workload adds to a series.
fn expected(index: u32) -> (u64, u64) {
    use workload::{PAGE, RECORD};
    let of = |role, op| series(role, op) == Some(index);
    match index {
        WAL_FSYNC => (4, 0),
        BACKEND_COMMIT | META_COMMIT | WAL_ROTATION => (1, 0),
        _ if of(Role::Wal, Op::Write) => (1, RECORD as u64),
        _ if of(Role::Wal, Op::Fdatasync) => (2, 0),
        _ if of(Role::Wal, Op::Fallocate) || of(Role::Wal, Op::Ftruncate) => (1, 0),
        _ if of(Role::WalDir, Op::Fsync) => (2, 0),
        _ if of(Role::Backend, Op::Ftruncate) || of(Role::Backend, Op::Fsync) => (1, 0),
        _ if of(Role::Backend, Op::Pwrite64) => (2, 2 * u64::from(PAGE)),
        _ if of(Role::Backend, Op::Fdatasync) => (2, 0),
        _ => (0, 0),
    }
}

fn name(index: u32) -> String {
    match index {
        WAL_FSYNC => "WAL syncs".to_owned(),
        BACKEND_COMMIT => "backend commits".to_owned(),
        META_COMMIT => "writes of a meta page".to_owned(),
        WAL_ROTATION => "rotations".to_owned(),
        _ => match OPERATIONS.get(index as usize) {
            Some((role, op)) => format!("{} of {}", op.as_str(), role.as_str()),
            None => format!("series {index}"),
        },
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() > 1 && self.0.iter().all(|difference| difference.counted == 0) {
            return f.write_str("no event was counted");
        }
        let parts = self
            .0
            .iter()
            .map(|Difference { what, expected, counted }| format!("{what}: {counted} instead of {expected}"));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [SeriesTotals; SERIES as usize] =
        [SeriesTotals { count: 0, bytes: 0, sum_ns: 0 }; SERIES as usize];

    fn everything() -> [SeriesTotals; SERIES as usize] {
        let mut index = 0..;
        NOTHING.map(|_| {
            let (count, bytes) = expected(index.next().unwrap());
            SeriesTotals { count, bytes, sum_ns: 10 * count }
        })
    }

    #[test]
    fn only_exact_counts_pass() {
        type Change = fn(&mut [SeriesTotals; SERIES as usize]);
        let cases: [(Change, &str, &str); 7] = [
            (|_| {}, "", "all were counted"),
            (|after| *after = NOTHING, "no event was counted", "the hook is detached"),
            (|after| after[1].count = 1, "fdatasync of wal: 1 instead of 2", "one was lost"),
            (|after| after[WAL_FSYNC as usize].count = 8, "WAL syncs: 8 instead of 4", "all twice"),
            (|after| after[0].bytes = 0, "write of wal (bytes): 0 instead of 512", "the result was not read"),
            (
                |after| after[16].count = 1,
                "ftruncate of defrag: 1 instead of 0",
                "attributed to another file",
            ),
            (
                |after| after[5].sum_ns = 5_000,
                "fsync of wal_dir (ns, upper limit): 5000 instead of 1000",
                "another clock",
            ),
        ];
        for (change, expected, why) in cases {
            let mut after = everything();
            change(&mut after);
            assert_eq!(compare(&NOTHING, &after, 1_000).to_string(), expected, "{why}");
        }
    }

    #[test]
    fn every_system_call_is_issued() {
        for op in Op::ALL {
            let issued =
                (0..).zip(OPERATIONS).any(|(index, (_, other))| other == op && expected(index).0 > 0);
            assert!(issued, "the test would not detect a detached hook of `{}`", op.as_str());
        }
    }
}
