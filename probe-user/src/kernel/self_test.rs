//! A test with a known answer: the probe does itself what etcd does, and everything it did has to have been counted.
//!
//! It takes the way of every event: name, directory, role, commit and rotation are told by the same programs through the
//! same hook, so a hook that is gone, a map that is full and an offset that is wrong all show.

use std::{fmt, io, thread};

use probe_ebpf::series::{
    BACKEND_COMMIT, META_COMMIT, OPERATIONS, Op, Role, SERIES, WAL_FSYNC, WAL_ROTATION, series,
};

use super::{Kernel, KernelError, monotonic_ns};
pub(super) use workload::Rehearsal;

mod workload;

/// The kernel may skip a program now and then (see [`Kernel::skipped_runs`], which before Linux 6.7 does not tell of
/// tracepoints); a hook that is gone is gone three times in a row.
const ATTEMPTS: u32 = 3;

/// Why the probe cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    #[error("cannot make files for the self-test; it needs one of {places} to be writable and in memory")]
    NoPlace { places: &'static str, source: io::Error },
    #[error("cannot {0} a file of the self-test")]
    Failed(&'static str, #[source] io::Error),
    #[error(
        "the self-test's own events did not arrive as they were made through the {hook} hook: {differences}"
    )]
    Blind { hook: &'static str, differences: Differences },
    #[error("cannot let the programs see the self-test")]
    Kernel(#[source] Box<KernelError>),
}

/// What arrived otherwise than it was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences(Vec<Difference>);

#[derive(Debug, PartialEq, Eq)]
struct Difference {
    what: String,
    done: u64,
    arrived: u64,
}

/// What one series holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    count: u64,
    bytes: u64,
    sum_ns: u64,
}

impl Kernel {
    /// Does what etcd does on files of the probe's own and compares what arrived.
    ///
    /// Takes well below a millisecond, and leaves nothing behind but a place among the targets.
    ///
    /// # Errors
    /// If anything did not arrive, arrived twice or took longer than it can have, or if the test could not be made.
    pub fn self_test(&mut self) -> Result<(), SelfTestError> {
        let mut rehearsal = match self.rehearsal.take() {
            Some(rehearsal) => rehearsal,
            None => Rehearsal::prepare()?,
        };
        let mut outcome = self.attempt(&mut rehearsal);
        for _ in 1..ATTEMPTS {
            if matches!(outcome, Ok(ref differences) if !differences.0.is_empty()) {
                outcome = self.attempt(&mut rehearsal);
            }
        }
        self.rehearsal = Some(rehearsal);
        let differences = outcome?;
        if differences.0.is_empty() {
            return Ok(());
        }
        Err(SelfTestError::Blind { hook: self.hook.as_str(), differences })
    }

    /// Plays once, on a thread of its own: one that is new to the programs takes a free slot, as etcd's threads do.
    fn attempt(&mut self, rehearsal: &mut Rehearsal) -> Result<Differences, SelfTestError> {
        let in_kernel = |error| SelfTestError::Kernel(Box::new(error));
        let pid = std::process::id();
        self.watch(pid, true).map_err(in_kernel)?;
        let before = self.held();
        let began_ns = monotonic_ns();
        let played = thread::scope(|scope| {
            let builder = thread::Builder::new().name("self-test".to_owned());
            let player = builder.spawn_scoped(scope, || rehearsal.play());
            let player = player.map_err(|error| SelfTestError::Failed("start a thread for", error))?;
            player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let took_ns = monotonic_ns() - began_ns;
        let after = self.held();
        self.watch(pid, false).map_err(in_kernel)?;
        self.release_threads_of_self().map_err(in_kernel)?;
        played?;
        Ok(compare(&before, &after, took_ns))
    }

    /// Returns what the series of the probe's own process hold; nothing, if the programs do not know it yet.
    fn held(&self) -> [Held; SERIES as usize] {
        let Some(own) = self.own_target() else { return [Held::default(); SERIES as usize] };
        let mut series = 0..;
        [(); SERIES as usize].map(|()| {
            let latencies = self.latencies(own, series.next().unwrap_or_default());
            Held { count: latencies.count(), bytes: latencies.bytes, sum_ns: latencies.sum_ns }
        })
    }

    /// Returns the place among the targets that the self-test has; no member is ever found there.
    fn own_target(&self) -> Option<u32> {
        self.processes().into_iter().find(|process| process.pid == std::process::id()).map(|own| own.target)
    }

    fn release_threads_of_self(&mut self) -> Result<(), KernelError> {
        match self.own_target() {
            Some(own) => self.release_threads(own),
            None => Ok(()),
        }
    }
}

/// Compares what arrived with what [`Rehearsal::play`] does.
fn compare(before: &[Held; SERIES as usize], after: &[Held; SERIES as usize], took_ns: u64) -> Differences {
    let mut differences = Vec::new();
    for (index, (before, after)) in (0..).zip(before.iter().zip(after)) {
        let (count, bytes) = done(index);
        let mut differs = |what: &str, done: u64, arrived: u64| {
            differences.push(Difference { what: format!("{}{what}", name(index)), done, arrived });
        };
        if after.count - before.count != count {
            differs("", count, after.count - before.count);
        }
        if after.bytes - before.bytes != bytes {
            differs(" (bytes)", bytes, after.bytes - before.bytes);
        }
        if after.sum_ns - before.sum_ns > took_ns {
            differs(" (ns, at most)", took_ns, after.sum_ns - before.sum_ns);
        }
    }
    Differences(differences)
}

/// Returns how many events, and bytes written, one play is in a series.
fn done(index: u32) -> (u64, u64) {
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
        if self.0.len() > 1 && self.0.iter().all(|difference| difference.arrived == 0) {
            return f.write_str("not one of them");
        }
        let parts =
            self.0.iter().map(|Difference { what, done, arrived }| format!("{what} {arrived} for {done}"));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [Held; SERIES as usize] = [Held { count: 0, bytes: 0, sum_ns: 0 }; SERIES as usize];

    fn everything() -> [Held; SERIES as usize] {
        let mut index = 0..;
        NOTHING.map(|_| {
            let (count, bytes) = done(index.next().unwrap());
            Held { count, bytes, sum_ns: 10 * count }
        })
    }

    #[test]
    fn only_what_was_done_passes() {
        type Change = fn(&mut [Held; SERIES as usize]);
        let cases: [(Change, &str, &str); 7] = [
            (|_| {}, "", "all arrived"),
            (|after| *after = NOTHING, "not one of them", "no hook is there"),
            (|after| after[1].count = 1, "fdatasync of wal 1 for 2", "one was lost"),
            (|after| after[WAL_FSYNC as usize].count = 8, "WAL syncs 8 for 4", "all twice"),
            (|after| after[0].bytes = 0, "write of wal (bytes) 0 for 512", "the result was not read"),
            (|after| after[16].count = 1, "ftruncate of defrag 1 for 0", "taken for another file"),
            (
                |after| after[5].sum_ns = 5_000,
                "fsync of wal_dir (ns, at most) 5000 for 1000",
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
    fn every_system_call_is_made() {
        for op in Op::ALL {
            let made = (0..).zip(OPERATIONS).any(|(index, (_, other))| other == op && done(index).0 > 0);
            assert!(made, "a hook of `{}` that is gone would not show", op.as_str());
        }
    }
}
