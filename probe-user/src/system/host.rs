//! Facts about this machine and about what this process may do on it. Read, never judged: `doctor` does that.
//!
//! Everything comes from files below one root, so that tests can make up a machine.

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

/// The first kernel that does not count BPF memory against `RLIMIT_MEMLOCK` but to the memory cgroup (`bpf: Eliminate
/// rlimit-based memory accounting`, Linux 5.11).
const MEMLOCK_UNCOUNTED_SINCE: KernelVersion = KernelVersion { major: 5, minor: 11, patch: 0 };

/// What the maps take at the default of `--max-members`. Tried on 5.10: 2 MiB are too little.
const LOCKED_BYTES: u64 = 3 << 20;

/// `PROC_PID_INIT_INO` and `PROC_USER_INIT_INO` (`include/linux/proc_ns.h`), fixed since Linux 3.8.
const INITIAL_PID_NAMESPACE: u32 = 0xEFFF_FFFC;
const INITIAL_USER_NAMESPACE: u32 = 0xEFFF_FFFD;

/// `SECCOMP_MODE_FILTER` (include/uapi/linux/seccomp.h).
const SECCOMP_FILTER: u32 = 2;

/// What is known of this machine. `None` where it could not be told.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// As `uname -r` tells it.
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
    /// 0 silences fentry hooks.
    pub ftrace_enabled: Option<i64>,
    pub cgroups: Cgroups,
    /// Whether our pids are the kernel's.
    pub initial_pid_namespace: bool,
    /// Whether our capabilities are worth anything to the kernel itself, and not only inside a rootless container.
    pub initial_user_namespace: bool,
    /// Whether a filter of system calls is in force.
    pub seccomp: bool,
}

/// The running kernel's description of its own types.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Btf {
    Readable,
    Missing,
    Unreadable(String),
}

/// How many bytes this process may lock; aya raises the limit as far as the kernel lets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Memlock {
    Unlimited,
    Bytes(u64),
    Unknown,
}

impl Host {
    /// Reads what this machine says.
    ///
    /// Where securityfs is not mounted, as in most containers, it is for one short-lived thread that nobody else sees.
    pub fn read() -> Self {
        let mut host = Self::below(Path::new("/"));
        if host.lockdown == Lockdown::Unknown {
            host.lockdown = lockdown::read_unmounted();
        }
        host
    }

    /// Reads what a machine says whose root directory is elsewhere.
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

    /// Returns whether this kernel refuses to create maps larger than the limit on locked memory.
    pub fn counts_memlock(&self) -> bool {
        self.version.is_some_and(|version| version < MEMLOCK_UNCOUNTED_SINCE)
    }

    /// Returns whether the maps may be created, whether or not this kernel counts them.
    pub fn memlock_suffices(&self) -> bool {
        let enough = match self.memlock {
            Memlock::Bytes(bytes) => bytes >= LOCKED_BYTES,
            Memlock::Unlimited | Memlock::Unknown => true,
        };
        enough || !self.counts_memlock() || self.has(Capability::SysResource)
    }

    /// Returns whether this process has a capability, in the eyes of the kernel itself.
    pub fn has(&self, capability: Capability) -> bool {
        self.initial_user_namespace && self.capabilities.has(capability)
    }

    /// Returns whether it has that capability, or another one that the kernel takes for it.
    pub fn has_or_stands_in(&self, capability: Capability) -> bool {
        self.initial_user_namespace && self.capabilities.suffice_for(capability, self.version)
    }

    /// Returns whether the kernel keeps this process from attaching to tracepoints, for all that it has `CAP_PERFMON`.
    ///
    /// Seen with Debian's 5.10 and 6.12 at level 3. Mainline knows levels up to 2, and binds nobody who has the capability.
    pub fn is_too_paranoid(&self) -> bool {
        self.perf_event_paranoid.is_some_and(|level| level > 2) && !self.has(Capability::SysAdmin)
    }

    /// Returns what this process lacks on this kernel, and for what.
    pub fn missing(&self) -> impl Iterator<Item = Need> {
        needed(self.version).filter(|need| !self.has_or_stands_in(need.capability))
    }

    /// Returns whether nothing can be measured here by any hook, whatever else is the matter.
    pub fn forbids_measuring(&self) -> bool {
        self.lockdown == Lockdown::Confidentiality
            || !self.initial_user_namespace
            || self.missing_to_measure().next().is_some()
    }

    /// Returns why the kernel refuses to load or to attach, and the way out, by the likeliest reason.
    ///
    /// Tracepoints need tracefs and perf events beside what every hook needs.
    pub fn why_refused(&self, by_tracepoint: bool) -> String {
        if self.lockdown == Lockdown::Confidentiality {
            return "the kernel is locked down (confidentiality), which forbids tracing: boot with lockdown=integrity, \
                    or without lockdown="
                .to_owned();
        }
        if !self.initial_user_namespace {
            return "the root of this user namespace is nobody to the kernel: run outside of it".to_owned();
        }
        let missing: Vec<Need> = self.missing_to_measure().collect();
        match missing[..] {
            [] => {}
            [Need { capability, to, .. }] => {
                let name = capability.as_str();
                return format!("{name} is missing, which it takes to {to}: run as root, or grant it");
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

    /// Returns what may keep maps from being created; with more than the default of `--max-members` any limit may.
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

    /// Returns what keeps tracepoints, and only them, from a process with all that loading takes.
    fn why_no_tracepoints(&self) -> Option<&'static str> {
        match self.tracefs {
            Tracefs::NotMounted if !self.has(Capability::SysAdmin) => Some(
                "tracefs is not mounted, and CAP_SYS_ADMIN is missing, which it takes to mount it: mount it with \
                 `mount -t tracefs tracefs /sys/kernel/tracing`, or grant it",
            ),
            Tracefs::Closed(_) => {
                Some("tracefs is closed to this user: run as root, or grant CAP_DAC_READ_SEARCH")
            }
            _ if self.is_too_paranoid() => Some(
                "kernel.perf_event_paranoid is above 2, and CAP_SYS_ADMIN is missing, which some kernels then ask for: \
                 grant it, or set 2",
            ),
            _ => None,
        }
    }

    /// Returns the capabilities without which nothing is measured on this kernel.
    fn missing_to_measure(&self) -> impl Iterator<Item = Need> {
        self.missing().filter(|need| need.purpose == Purpose::Measure)
    }
}

/// Returns whether our pids are the kernel's: else no process that the programs see can be found in `/proc`.
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
        // Up to the hard limit anybody may raise it.
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
