//! Facts about this host, and about what this process is permitted to do on it. This module reads them;
//! `doctor` judges them.
//!
//! Everything is read from files below one root directory, so that tests can provide a fixture.

mod capability;
mod lockdown;
mod mounts;
pub(crate) mod private_mount;

use std::{fs, io, path::Path};

use procfs::{
    FromRead, KernelVersion,
    process::{LimitValue, Limits, MountInfos, Status},
};
use serde::Serialize;

pub use capability::{Capabilities, Capability, Need, Purpose, needed};
pub use lockdown::Lockdown;
pub use mounts::{Cgroups, Tracefs};

/// The first kernel that charges BPF memory to the memory cgroup instead of `RLIMIT_MEMLOCK` (`bpf: Eliminate
/// rlimit-based memory accounting`, Linux 5.11).
const MEMLOCK_UNCOUNTED_SINCE: KernelVersion = KernelVersion { major: 5, minor: 11, patch: 0 };

/// Locked memory that the maps require at the default of `--max-members`. Tested on 5.10: 2 MiB are not
/// enough.
const LOCKED_BYTES: u64 = 3 << 20;

/// `PROC_PID_INIT_INO` and `PROC_USER_INIT_INO` (`include/linux/proc_ns.h`), fixed since Linux 3.8.
const INITIAL_PID_NAMESPACE: u32 = 0xEFFF_FFFC;
const INITIAL_USER_NAMESPACE: u32 = 0xEFFF_FFFD;

/// `SECCOMP_MODE_FILTER` (include/uapi/linux/seccomp.h).
const SECCOMP_FILTER: u32 = 2;

/// Facts about this host. `None` where a fact could not be read.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// As printed by `uname -r`.
    pub release: String,
    #[serde(skip)]
    pub version: Option<KernelVersion>,
    pub btf: Btf,
    pub lockdown: Lockdown,
    pub effective_uid: Option<u32>,
    pub capabilities: Capabilities,
    pub memlock: Memlock,
    pub tracefs: Tracefs,
    pub perf_event_paranoid: Option<i64>,
    pub unprivileged_bpf_disabled: Option<i64>,
    /// 0 disables fentry hooks.
    pub ftrace_enabled: Option<i64>,
    pub cgroups: Cgroups,
    /// Whether this process is in the initial pid namespace, so that its pids are the kernel's.
    pub initial_pid_namespace: bool,
    /// Whether our capabilities are valid for the kernel itself, and not only inside a rootless container.
    pub initial_user_namespace: bool,
    /// Whether a seccomp filter of system calls is active.
    pub seccomp: bool,
}

/// Availability of the running kernel's type information (BTF).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Btf {
    Readable,
    Missing,
    Unreadable(String),
}

/// Limit on locked memory of this process; aya raises it as far as the kernel permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Memlock {
    Unlimited,
    Bytes(u64),
    Unknown,
}

impl Host {
    /// Reads the facts of this host.
    ///
    /// Where securityfs is not mounted, as in most containers, it is mounted in a private mount namespace of
    /// one short-lived thread.
    pub fn read() -> Self {
        let mut host = Self::below(Path::new("/"));
        if host.lockdown == Lockdown::Unknown {
            host.lockdown = lockdown::read_unmounted();
        }
        host
    }

    /// Reads the facts of a host from files below another root directory.
    pub fn below(root: &Path) -> Self {
        let status = parse::<Status>(root, "proc/self/status");
        let mounts = parse::<MountInfos>(root, "proc/self/mountinfo").map(|mounts| mounts.0);
        let mounts = mounts.as_deref().unwrap_or_default();
        let release = text(root, "proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            version: release.parse().ok(),
            release,
            btf: btf(&root.join("sys/kernel/btf/vmlinux")),
            lockdown: lockdown::read(root, mounts),
            effective_uid: status.as_ref().map(|status| status.euid),
            capabilities: status.as_ref().map(Capabilities::from).unwrap_or_default(),
            memlock: parse::<Limits>(root, "proc/self/limits").as_ref().map_or(Memlock::Unknown, memlock),
            tracefs: mounts::tracefs(root),
            perf_event_paranoid: number(root, "proc/sys/kernel/perf_event_paranoid"),
            unprivileged_bpf_disabled: number(root, "proc/sys/kernel/unprivileged_bpf_disabled"),
            ftrace_enabled: number(root, "proc/sys/kernel/ftrace_enabled"),
            cgroups: mounts::cgroups(mounts),
            initial_pid_namespace: namespace_is(root, "pid", INITIAL_PID_NAMESPACE),
            initial_user_namespace: namespace_is(root, "user", INITIAL_USER_NAMESPACE),
            seccomp: status.and_then(|status| status.seccomp) == Some(SECCOMP_FILTER),
        }
    }

    /// Returns whether this kernel charges maps against the limit on locked memory, and refuses to create
    /// larger ones.
    pub fn counts_memlock(&self) -> bool {
        self.version.is_some_and(|version| version < MEMLOCK_UNCOUNTED_SINCE)
    }

    /// Returns whether the limit on locked memory permits the maps; true if this kernel does not count them.
    pub fn memlock_suffices(&self) -> bool {
        let enough = match self.memlock {
            Memlock::Bytes(bytes) => bytes >= LOCKED_BYTES,
            Memlock::Unlimited | Memlock::Unknown => true,
        };
        enough || !self.counts_memlock() || self.has(Capability::SysResource)
    }

    /// Returns whether this process has a capability that is valid for the kernel itself.
    pub fn has(&self, capability: Capability) -> bool {
        self.initial_user_namespace && self.capabilities.has(capability)
    }

    /// Returns whether this process has that capability, or another one that the kernel accepts instead.
    pub fn has_or_substitute(&self, capability: Capability) -> bool {
        self.initial_user_namespace && self.capabilities.suffice_for(capability, self.version)
    }

    /// Returns whether the kernel prevents this process from attaching to tracepoints although it has
    /// `CAP_PERFMON`.
    ///
    /// Observed with Debian's 5.10 and 6.12 at level 3. The mainline kernel has levels up to 2, which do not
    /// restrict a process with the capability.
    pub fn is_too_paranoid(&self) -> bool {
        self.perf_event_paranoid.is_some_and(|level| level > 2) && !self.has(Capability::SysAdmin)
    }

    /// Returns the capabilities that this process lacks on this kernel, with their purposes.
    pub fn missing(&self) -> impl Iterator<Item = Need> {
        needed(self.version).filter(|need| !self.has_or_substitute(need.capability))
    }

    /// Returns whether no hook can measure anything on this host, independent of other findings.
    pub fn forbids_measuring(&self) -> bool {
        self.lockdown == Lockdown::Confidentiality
            || !self.initial_user_namespace
            || self.missing_to_measure().next().is_some()
    }

    /// Returns the most likely reason why the kernel refuses to load or to attach programs, with the remedy.
    ///
    /// Tracepoints require tracefs and perf events in addition to the requirements of every hook.
    pub fn why_refused(&self, by_tracepoint: bool) -> String {
        if self.lockdown == Lockdown::Confidentiality {
            return "the kernel is locked down (confidentiality), which forbids tracing: boot with lockdown=integrity, \
                    or without lockdown="
                .to_owned();
        }
        if !self.initial_user_namespace {
            return "root in this user namespace has no privileges in the kernel: run outside of the user namespace".to_owned();
        }
        let missing: Vec<Need> = self.missing_to_measure().collect();
        match missing[..] {
            [] => {}
            [Need { capability, to, .. }] => {
                let name = capability.as_str();
                return format!("{name} is missing, which is required to {to}: run as root, or grant it");
            }
            _ => {
                let names: Vec<_> = missing.iter().map(|need| need.capability.as_str()).collect();
                return format!("{} are missing: run as root, or grant them", names.join(" and "));
            }
        }
        if !self.memlock_suffices()
            && let Some(why) = self.why_no_maps()
        {
            return why;
        }
        if by_tracepoint && let Some(why) = self.why_no_tracepoints() {
            return why.to_owned();
        }
        if let Some(why) = self.why_no_maps() {
            return why;
        }
        let suspect = if self.seccomp { "the seccomp filter of this process" } else { "a security module" };
        format!(
            "no capability is missing: {suspect} or this kernel's build may forbid bpf(2) or perf_event_open(2)"
        )
    }

    /// Returns why the creation of maps may fail: with more than the default of `--max-members`, any limit
    /// may be too low.
    fn why_no_maps(&self) -> Option<String> {
        let Memlock::Bytes(bytes) = self.memlock else { return None };
        let kib = bytes >> 10;
        let bound = self.counts_memlock() && !self.has(Capability::SysResource);
        bound.then(|| {
            format!(
                "this kernel counts maps against the limit on locked memory, {kib} KiB: raise it \
                 (LimitMEMLOCK=infinity, --ulimit memlock=-1), or grant CAP_SYS_RESOURCE"
            )
        })
    }

    /// Returns why tracepoints, and only tracepoints, are not available to a process that can load programs.
    fn why_no_tracepoints(&self) -> Option<&'static str> {
        match self.tracefs {
            Tracefs::NotMounted if !self.has(Capability::SysAdmin) => Some(
                "tracefs is not mounted, and CAP_SYS_ADMIN is missing, which mounting it requires: mount it with \
                 `mount -t tracefs tracefs /sys/kernel/tracing`, or grant it",
            ),
            Tracefs::Closed(_) => {
                Some("tracefs is closed to this user: run as root, or grant CAP_DAC_READ_SEARCH")
            }
            _ if self.is_too_paranoid() => Some(
                "kernel.perf_event_paranoid is above 2, and CAP_SYS_ADMIN is missing, which some kernels then require: \
                grant it, or set kernel.perf_event_paranoid to 2",
            ),
            _ => None,
        }
    }

    /// Returns the missing capabilities without which nothing can be measured on this kernel.
    fn missing_to_measure(&self) -> impl Iterator<Item = Need> {
        self.missing().filter(|need| need.purpose == Purpose::Measure)
    }
}

/// Returns whether this process is in the initial pid namespace. Otherwise the pids that the kernel programs
/// record do not match `/proc`.
pub fn in_initial_pid_namespace() -> bool {
    namespace_is(Path::new("/"), "pid", INITIAL_PID_NAMESPACE)
}

fn namespace_is(root: &Path, kind: &str, inode: u32) -> bool {
    let namespace = fs::read_link(root.join("proc/self/ns").join(kind));
    namespace.is_ok_and(|namespace| namespace.as_os_str() == &*format!("{kind}:[{inode}]"))
}

fn btf(path: &Path) -> Btf {
    match fs::File::open(path) {
        Ok(_) => Btf::Readable,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Btf::Missing,
        Err(error) => Btf::Unreadable(error.to_string()),
    }
}

fn memlock(limits: &Limits) -> Memlock {
    let limit = &limits.max_locked_memory;
    match (&limit.soft_limit, &limit.hard_limit) {
        // Any process may raise the soft limit up to the hard limit.
        (LimitValue::Unlimited, _) | (_, LimitValue::Unlimited) => Memlock::Unlimited,
        (LimitValue::Value(bytes), _) => Memlock::Bytes(*bytes),
    }
}

fn parse<T: FromRead>(root: &Path, path: &str) -> Option<T> {
    T::from_read(fs::File::open(root.join(path)).ok()?).ok()
}

fn text(root: &Path, path: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(path)).ok()?.trim_end().to_owned())
}

fn number(root: &Path, path: &str) -> Option<i64> {
    text(root, path)?.parse().ok()
}

#[cfg(test)]
mod tests;
