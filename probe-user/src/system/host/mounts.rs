//! State of tracefs and of the cgroup file systems.

use std::{fs, io, path::Path};

use procfs::process::MountInfo;
use serde::Serialize;

/// The mount point of tracefs, and the one before Linux 4.1, which is often still in use.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Whether tracepoints are available, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "at")]
pub enum Tracefs {
    Readable(&'static str),
    /// Mounted, but not accessible to this user: since Linux 4.1 only root can read the directory.
    Closed(&'static str),
    /// Mounted, but without `syscalls:` tracepoints: the kernel lacks `CONFIG_FTRACE_SYSCALLS`.
    NoSyscalls(&'static str),
    NotMounted,
}

/// The version of cgroups in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroups {
    V1,
    V2,
    /// Controllers use version 1; version 2 is also mounted, for systemd.
    Hybrid,
    NotMounted,
}

/// Searches for tracefs below a root directory.
pub(super) fn tracefs(root: &Path) -> Tracefs {
    let inside = |at: &str| root.join(at.trim_start_matches('/'));
    let mounts = TRACEFS.map(|at| (at, fs::metadata(inside(at).join("events/syscalls"))));
    let find = |wanted: fn(&io::Result<fs::Metadata>) -> bool| {
        mounts.iter().find(|(_, found)| wanted(found)).map(|(at, _)| *at)
    };
    if let Some(at) = find(Result::is_ok) {
        return Tracefs::Readable(at);
    }
    // A mounted tracefs contains `events`; a mount point without a mount is an empty directory.
    if let Some((at, _)) = mounts.iter().find(|(at, _)| inside(at).join("events").is_dir()) {
        return Tracefs::NoSyscalls(at);
    }
    let closed =
        find(|found| found.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied));
    closed.map_or(Tracefs::NotMounted, Tracefs::Closed)
}

/// Returns the version, by the file systems that are mounted.
pub(super) fn cgroups(mounts: &[MountInfo]) -> Cgroups {
    let mounted = |kind: &str| mounts.iter().any(|mount| mount.fs_type == kind);
    match (mounted("cgroup"), mounted("cgroup2")) {
        (true, true) => Cgroups::Hybrid,
        (true, false) => Cgroups::V1,
        (false, true) => Cgroups::V2,
        (false, false) => Cgroups::NotMounted,
    }
}
