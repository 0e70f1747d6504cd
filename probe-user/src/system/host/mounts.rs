//! Where the kernel shows what it does: tracefs and cgroups.

use std::{fs, io, path::Path};

use procfs::process::MountInfo;
use serde::Serialize;

/// Where tracefs is, and where it was before Linux 4.1 and often is still.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Whether tracepoints can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "at")]
pub enum Tracefs {
    Readable(&'static str),
    /// Mounted and closed to this user: the directory is root's alone since Linux 4.1.
    Closed(&'static str),
    /// There, and without `syscalls:` tracepoints: the kernel lacks `CONFIG_FTRACE_SYSCALLS`.
    NoSyscalls(&'static str),
    NotMounted,
}

/// Which generation of control groups is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroups {
    V1,
    V2,
    /// Controllers on version 1, and version 2 beside them for systemd.
    Hybrid,
    NotMounted,
}

/// Looks for tracefs below a root directory.
pub(super) fn tracefs(root: &Path) -> Tracefs {
    let inside = |at: &str| root.join(at.trim_start_matches('/'));
    let looked = TRACEFS.map(|at| (at, fs::metadata(inside(at).join("events/syscalls"))));
    let find = |wanted: fn(&io::Result<fs::Metadata>) -> bool| {
        looked.iter().find(|(_, found)| wanted(found)).map(|(at, _)| *at)
    };
    if let Some(at) = find(Result::is_ok) {
        return Tracefs::Readable(at);
    }
    // A mounted one has events; the place to mount it at is an empty directory.
    if let Some((at, _)) = looked.iter().find(|(at, _)| inside(at).join("events").is_dir()) {
        return Tracefs::NoSyscalls(at);
    }
    let closed =
        find(|found| found.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied));
    closed.map_or(Tracefs::NotMounted, Tracefs::Closed)
}

/// Tells the generation by what is mounted.
pub(super) fn cgroups(mounts: &[MountInfo]) -> Cgroups {
    let mounted = |kind: &str| mounts.iter().any(|mount| mount.fs_type == kind);
    match (mounted("cgroup"), mounted("cgroup2")) {
        (true, true) => Cgroups::Hybrid,
        (true, false) => Cgroups::V1,
        (false, true) => Cgroups::V2,
        (false, false) => Cgroups::NotMounted,
    }
}
