//! The cases that run in a machine, and the console line that reports the result of each.

use std::fmt;
use std::str::FromStr;

use anyhow::Context;
use serde_json::{Value, json};

use super::{Architecture, Kernel};

/// The guest's last line after all cases, whether they passed or failed.
pub const DONE: &str = "guest: done";

/// The prefix of a report, which separates it from kernel messages on the same console.
const REPORT: &str = "guest: report ";

/// The prefix of the line that reports a repeated attempt, on a console and in the output of a test.
pub const REPEATED: &str = "repeated: ";

/// The disks of every machine in the order of `/dev/vda`, `/dev/vdb`, …, with the command that formats each.
///
/// Kernels before Linux 5.19 reject file systems that `mkfs.xfs` 6.5 and newer creates, unless a feature is
/// turned off.
pub const DISKS: [(&str, &[&str]); 5] = [
    ("ext4", &["mkfs.ext4", "-q", "-F"]),
    ("xfs", &["mkfs.xfs", "-q", "-f", "-i", "nrext64=0"]),
    // The guest adds an exact delay to it.
    ("slow", &["mkfs.ext4", "-q", "-F"]),
    // For the processes that are not measured, see `BUSY`.
    ("busy", &["mkfs.ext4", "-q", "-F"]),
    // For the queueing cases, see `NARROW`.
    ("narrow", &["mkfs.ext4", "-q", "-F"]),
];

/// The disk of [`DISKS`] with a limit of writes per second: a process that syncs it is in that system call
/// nearly all the time and uses little of an emulated CPU.
pub const BUSY: usize = 3;
const BUSY_WRITES_PER_SECOND: u32 = 60;

/// The disk of [`DISKS`] whose queue is kept full: 5 ms per write, so that enough of etcd's syncs complete.
pub const NARROW: usize = 4;
const NARROW_WRITES_PER_SECOND: u32 = 200;

/// Returns the limit of writes per second of a disk of [`DISKS`], if it has one.
pub fn writes_per_second(disk: usize) -> Option<u32> {
    match disk {
        BUSY => Some(BUSY_WRITES_PER_SECOND),
        NARROW => Some(NARROW_WRITES_PER_SECOND),
        _ => None,
    }
}

/// The kernels on which cgroup limits are tested: one that throttles a thread within the kernel, and one that
/// does so on the return to user space.
const NEW_ENOUGH: &str = "6.12";
const NEWEST: &str = "7.2";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The probe's automatic choice.
    Auto,
    Fentry,
    Tracepoint,
}

impl Hook {
    /// Returns the value of `--hook`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fentry => "fentry",
            Self::Tracepoint => "tracepoint",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every event of a real etcd under load is counted while other processes block in the same system calls.
    Exact,
    /// The same on a kernel that was switched to preempt tasks within programs: each hook has two programs.
    Preempted,
    /// The probe chooses the cheapest hook that this kernel supports.
    Chosen,
    /// The latency of a disk with an exact delay is measured: overwrites of a segment.
    Overwrites,
    /// The same with etcd, compared with the kernel's own trace of its system calls.
    SlowWal,
    /// The probe detects that its hooks were detached.
    Detached,
    /// It also detects that `kernel.ftrace_enabled=0` disabled them.
    Silenced,
    /// The probe names each missing capability; the required ones are those in docs/kernels.md.
    Privileges,
    /// The verdict names a disk with slow reads and writes.
    DeviceSlow,
    /// The verdict names a disk with slow flushes.
    FlushSlow,
    /// The verdict names a limit of writes (cgroup v2).
    IoThrottled,
    /// The verdict names a limit of CPU time (cgroup v2).
    CpuStarved,
    /// The verdict names a queue that is always full, or the neighbours that fill it.
    QueueSaturated,
    /// With every hook the probe names kernel lockdown as the reason.
    LockedDown,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Preempted => "preempted",
            Self::Chosen => "chosen",
            Self::Overwrites => "overwrites",
            Self::SlowWal => "slow_wal",
            Self::Detached => "detached",
            Self::Silenced => "silenced",
            Self::Privileges => "privileges",
            Self::DeviceSlow => "device_slow",
            Self::FlushSlow => "flush_slow",
            Self::IoThrottled => "io_throttled",
            Self::CpuStarved => "cpu_starved",
            Self::QueueSaturated => "queue_saturated",
            Self::LockedDown => "locked_down",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub hook: Hook,
    pub file_system: FileSystem,
    pub kind: Kind,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}::{}", self.hook.as_str(), self.file_system.as_str(), self.kind.as_str())
    }
}

impl FromStr for Case {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        all().find(|case| case.to_string() == name).with_context(|| format!("cannot find the case {name}"))
    }
}

/// Returns all cases that a kernel can run.
pub fn all() -> impl Iterator<Item = Case> {
    let hooks = [Hook::Fentry, Hook::Tracepoint];
    let on = |hook, file_system, kind| Case { hook, file_system, kind };
    let exact = hooks.into_iter().flat_map(move |hook| {
        [FileSystem::Ext4, FileSystem::Xfs].map(|file_system| on(hook, file_system, Kind::Exact))
    });
    let slow = hooks
        .into_iter()
        .flat_map(move |hook| [Kind::Overwrites, Kind::SlowWal].map(|kind| on(hook, FileSystem::Ext4, kind)));
    let silenced = [on(Hook::Fentry, FileSystem::Ext4, Kind::Silenced)];
    let closed = hooks.into_iter().flat_map(move |hook| {
        [Kind::Detached, Kind::Privileges].map(|kind| on(hook, FileSystem::Ext4, kind))
    });
    // Every hook provides the same evidence but collects it differently.
    let culprits = hooks
        .into_iter()
        .flat_map(move |hook| {
            [Kind::DeviceSlow, Kind::FlushSlow].map(|kind| on(hook, FileSystem::Ext4, kind))
        })
        .chain(
            [Kind::IoThrottled, Kind::CpuStarved, Kind::QueueSaturated]
                .map(|kind| on(Hook::Auto, FileSystem::Ext4, kind)),
        );
    exact
        .chain([on(Hook::Fentry, FileSystem::Ext4, Kind::Preempted)])
        .chain([on(Hook::Auto, FileSystem::Ext4, Kind::Chosen)])
        .chain(slow)
        .chain(culprits)
        .chain(closed)
        .chain(silenced)
        // It cannot be undone, so it is the last.
        .chain([on(Hook::Auto, FileSystem::Ext4, Kind::LockedDown)])
}

/// Returns the planned cases of one kernel: all that its hooks support, and the slow disks that this
/// machine's `dmsetup` allows.
pub fn planned(kernel: &Kernel) -> Vec<Case> {
    let has = |hook| hook != Hook::Fentry || kernel.has_fentry();
    let is_own = kernel.architecture == Architecture::Amd64;
    let can = |case: &Case| match case.kind {
        Kind::Overwrites | Kind::SlowWal => is_own,
        // By both hooks on the kernels that run the full set, elsewhere by the hook that always exists.
        Kind::DeviceSlow | Kind::FlushSlow => {
            is_own && (kernel.name == NEW_ENOUGH || case.hook == Hook::Tracepoint)
        }
        Kind::CpuStarved => is_own && [NEW_ENOUGH, NEWEST].contains(&kernel.name.as_str()),
        // Older kernels cannot be switched, and newer ones are always preemptible.
        Kind::Preempted | Kind::IoThrottled | Kind::QueueSaturated => is_own && kernel.name == NEW_ENOUGH,
        _ => true,
    };
    all().filter(|case| has(case.hook) && can(case)).collect()
}

/// Returns whether the gate runs a case on this kernel. A series, and a filter by name, run it on every
/// kernel.
///
/// The gate runs on every kernel what depends on its code: that each hook counts every event, and notices
/// when it is detached or silenced; the choice of hooks; and what starting takes. The rest is the same code
/// on each kernel once its events are exact, so the gate runs it on one: the other file system, exact
/// latencies, and slow devices.
pub fn in_gate(kernel: &Kernel, case: Case) -> bool {
    let is_reference = kernel.architecture == Architecture::Amd64 && kernel.name == NEW_ENOUGH;
    let everywhere = match case.kind {
        Kind::Exact => case.file_system == FileSystem::Ext4,
        Kind::Overwrites | Kind::SlowWal | Kind::DeviceSlow | Kind::FlushSlow => false,
        _ => true,
    };
    is_reference || everywhere
}

/// The result of a case, or of another step in a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Report<C = Case> {
    pub case: C,
    pub seconds: f64,
    /// The figures if it passed, else the failure.
    pub result: Result<String, String>,
}

impl<C: fmt::Display + FromStr> Report<C> {
    /// Returns the console line.
    pub fn line(&self) -> String {
        let (passed, detail) = match &self.result {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        let report = json!({
            "case": self.case.to_string(), "passed": passed, "seconds": self.seconds, "detail": detail,
        });
        format!("{REPORT}{report}")
    }

    /// Parses a console line, if it is a complete report.
    pub fn parse(line: &str) -> Option<Self> {
        let (_, report) = line.split_once(REPORT)?;
        let report: Value = serde_json::from_str(report).ok()?;
        let detail = report["detail"].as_str()?.to_owned();
        Some(Self {
            case: report["case"].as_str()?.parse().ok()?,
            seconds: report["seconds"].as_f64()?,
            result: if report["passed"].as_bool()? { Ok(detail) } else { Err(detail) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(name: &str, architecture: Architecture) -> Kernel {
        Kernel { name: name.to_owned(), architecture, directory: "linux".into() }
    }

    #[test]
    fn names_are_read_back() {
        for case in all() {
            assert_eq!(case.to_string().parse::<Case>().unwrap(), case);
        }
        assert!("fentry::btrfs::exact".parse::<Case>().is_err());
    }

    #[test]
    fn every_hook_meets_every_file_system() {
        let cases = [
            ("5.10", Architecture::Amd64, 17, "both hooks"),
            ("6.12", Architecture::Amd64, 23, "every culprit"),
            ("7.2", Architecture::Amd64, 18, "a limit of CPU time"),
            ("6.1", Architecture::Arm64, 6, "tracepoints only"),
            ("6.12", Architecture::Arm64, 11, "there, too"),
        ];
        for (name, architecture, expected, why) in cases {
            assert_eq!(planned(&kernel(name, architecture)).len(), expected, "{name}: {why}");
        }
    }

    #[test]
    fn the_gate_runs_each_kind_by_each_hook() {
        let kernels = [
            kernel("5.10", Architecture::Amd64),
            kernel("6.1", Architecture::Amd64),
            kernel("6.12", Architecture::Amd64),
            kernel("7.2", Architecture::Amd64),
            kernel("6.1", Architecture::Arm64),
            kernel("6.12", Architecture::Arm64),
        ];
        let gated =
            |kernel: &Kernel| planned(kernel).into_iter().filter(|&case| in_gate(kernel, case)).count();
        assert_eq!(kernels.each_ref().map(gated), [9, 9, 23, 10, 5, 9]);
        for case in all() {
            let somewhere =
                kernels.iter().any(|kernel| planned(kernel).contains(&case) && in_gate(kernel, case));
            assert!(somewhere, "{case}");
        }
    }

    #[test]
    fn reports_are_read_back_whole_or_not_at_all() {
        let case = all().next().unwrap();
        for result in [Ok("kernel 1 = etcd 1".to_owned()), Err("two\nlines \"quoted\"".to_owned())] {
            let report = Report { case, seconds: 1.5, result };
            let line = report.line();
            assert_eq!(Report::parse(&line).as_ref(), Some(&report));
            assert_eq!(Report::parse(&format!("[    1.0] {line}")).as_ref(), Some(&report), "after a time");
            assert_eq!(Report::<Case>::parse(&line[..line.len() - 1]), None, "cut short");
        }
    }
}
