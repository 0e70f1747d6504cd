//! The lines about the kernel and about what this process may do.

use procfs::KernelVersion;

use super::{Finding, State, try_hooks::Refusal};
use crate::system::host::{
    Btf, Capability, Cgroups, Host, Lockdown, Memlock, Need, Purpose, Tracefs, needed,
};

const KERNEL: &str = "kernel";
const PRIVILEGES: &str = "privileges";

/// The oldest kernel that the programs are written for.
const OLDEST: KernelVersion = KernelVersion { major: 5, minor: 10, patch: 0 };

/// Returns the lines about the kernel; `works` tells whether a hook does.
pub fn kernel(host: &Host, works: bool) -> Vec<Finding> {
    vec![
        version(host),
        btf(host),
        lockdown(host),
        tracefs(host, works),
        ftrace_enabled(host),
        perf_event_paranoid(host, works),
        unprivileged_bpf(host),
        cgroups(host),
    ]
}

/// Returns the lines about this process; `drop` is what came of giving up what is not needed after the start.
pub fn privileges(host: &Host, drop: Option<&Result<(), Refusal>>) -> Vec<Finding> {
    let user = match host.effective_uid {
        Some(0) => Finding::new(PRIVILEGES, "user", State::Ok, "root"),
        Some(uid) => Finding::new(PRIVILEGES, "user", State::Note, format!("{uid}, not root")),
        None => Finding::new(PRIVILEGES, "user", State::Note, "unknown"),
    };
    let mut findings = vec![user, user_namespace(host), pid_namespace(host)];
    findings.extend(needed(host.version).map(|need| capability(host, need)));
    findings.push(memlock(host));
    if let Some(Err(refusal)) = drop {
        let finding = Finding::new(PRIVILEGES, "giving them up", State::Failed, &refusal.sentence);
        findings
            .push(finding.advice("look for a security module, or a seccomp filter that forbids capset(2)"));
    }
    findings
}

fn version(host: &Host) -> Finding {
    let name = |state| Finding::new(KERNEL, "version", state, format!("Linux {}", host.release));
    match host.version {
        Some(version) if version < OLDEST => name(State::Warning).advice("take Linux 5.10 or later"),
        Some(_) => name(State::Ok),
        None => name(State::Note),
    }
}

fn btf(host: &Host) -> Finding {
    let btf = |state, detail: &str| Finding::new(KERNEL, "BTF", state, detail);
    match &host.btf {
        Btf::Readable => btf(State::Ok, "/sys/kernel/btf/vmlinux"),
        Btf::Missing => btf(State::Failed, "there is no /sys/kernel/btf/vmlinux").advice(
            "show the host's /sys to this container, or take a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
        Btf::Unreadable(error) => {
            btf(State::Failed, &format!("cannot read /sys/kernel/btf/vmlinux: {error}"))
                .advice("let this process read it")
        }
    }
}

fn lockdown(host: &Host) -> Finding {
    let level = host.lockdown.as_str();
    match host.lockdown {
        Lockdown::None | Lockdown::Integrity => Finding::new(KERNEL, "lockdown", State::Ok, level),
        Lockdown::Confidentiality => {
            let detail = "confidentiality: no program may read the kernel's memory";
            Finding::new(KERNEL, "lockdown", State::Failed, detail)
                .advice("boot with lockdown=integrity, or without lockdown=")
        }
        Lockdown::Unknown => {
            let detail = "unknown: securityfs is not mounted, and this process may not";
            Finding::new(KERNEL, "lockdown", State::Note, detail)
                .advice("mount -t securityfs securityfs /sys/kernel/security shows it")
        }
    }
}

/// Returns how bad it is that only tracepoints are kept from working.
fn of_tracepoints(works: bool) -> State {
    if works { State::Note } else { State::Failed }
}

fn tracefs(host: &Host, works: bool) -> Finding {
    let state = of_tracepoints(works);
    let finding = |state, detail: &str| Finding::new(KERNEL, "tracefs", state, detail);
    match host.tracefs {
        Tracefs::Readable(at) => finding(State::Ok, at),
        Tracefs::Closed(at) => finding(state, &format!("{at} is closed to this user"))
            .advice("run as root, or with CAP_DAC_READ_SEARCH"),
        Tracefs::NoSyscalls(at) => finding(state, &format!("{at} has no tracepoints of system calls"))
            .advice("take a kernel built with CONFIG_FTRACE_SYSCALLS"),
        Tracefs::NotMounted if host.has(Capability::SysAdmin) => {
            finding(State::Ok, "not mounted; the probe mounts it for itself while it attaches")
        }
        Tracefs::NotMounted => {
            finding(state, "not mounted").advice("mount -t tracefs tracefs /sys/kernel/tracing")
        }
    }
}

fn ftrace_enabled(host: &Host) -> Finding {
    let what = "ftrace_enabled";
    match host.ftrace_enabled {
        Some(0) => Finding::new(KERNEL, what, State::Warning, "0: fentry hooks are refused, or see nothing")
            .advice("sysctl -w kernel.ftrace_enabled=1"),
        Some(value) => Finding::new(KERNEL, what, State::Ok, value.to_string()),
        None => Finding::new(KERNEL, what, State::Note, "not there: this kernel has no dynamic ftrace"),
    }
}

fn perf_event_paranoid(host: &Host, works: bool) -> Finding {
    let what = "perf_event_paranoid";
    match host.perf_event_paranoid {
        Some(level) if host.is_too_paranoid() => {
            let detail =
                format!("{level}: kernels of Debian and Ubuntu keep tracepoints for CAP_SYS_ADMIN then");
            Finding::new(KERNEL, what, of_tracepoints(works), detail)
                .advice("sysctl -w kernel.perf_event_paranoid=2, or grant CAP_SYS_ADMIN")
        }
        Some(level) => {
            Finding::new(KERNEL, what, State::Ok, format!("{level}, which does not bind CAP_PERFMON"))
        }
        None => Finding::new(KERNEL, what, State::Note, "not there: this kernel has no perf events")
            .advice("take a kernel built with CONFIG_PERF_EVENTS"),
    }
}

/// Nothing to act on: the probe has `CAP_BPF`, or cannot run whatever this says.
fn unprivileged_bpf(host: &Host) -> Finding {
    let what = "unprivileged_bpf_disabled";
    let told = match host.unprivileged_bpf_disabled {
        Some(value) => format!("{value}, which does not bind CAP_BPF"),
        None => "not there".to_owned(),
    };
    Finding::new(KERNEL, what, State::Ok, told)
}

fn cgroups(host: &Host) -> Finding {
    let (state, detail) = match host.cgroups {
        Cgroups::V1 => (State::Ok, "version 1"),
        Cgroups::V2 => (State::Ok, "version 2"),
        Cgroups::Hybrid => (State::Ok, "version 1, and version 2 beside it (hybrid)"),
        Cgroups::NotMounted => (State::Note, "not mounted"),
    };
    Finding::new(KERNEL, "cgroups", state, detail)
}

fn user_namespace(host: &Host) -> Finding {
    let what = "user namespace";
    if host.initial_user_namespace {
        return Finding::new(PRIVILEGES, what, State::Ok, "the host's");
    }
    let detail = "not the host's, so no capability of this process counts for the kernel itself";
    Finding::new(PRIVILEGES, what, State::Failed, detail)
        .advice("run outside of it: no rootless container, hostUsers: true of Kubernetes")
}

fn pid_namespace(host: &Host) -> Finding {
    let what = "pid namespace";
    if host.initial_pid_namespace {
        return Finding::new(PRIVILEGES, what, State::Ok, "the host's");
    }
    Finding::new(PRIVILEGES, what, State::Failed, "not the host's, so the kernel's pids mean nothing here")
        .advice("run in the host's: --pid=host of podman and docker, hostPID: true of Kubernetes")
}

fn capability(host: &Host, need: Need) -> Finding {
    let name = need.capability.as_str();
    let finding = |state, detail: String| Finding::new(PRIVILEGES, name, state, detail);
    if host.has_or_stands_in(need.capability) {
        let by_another = !host.has(need.capability);
        let aside = if by_another { " (another one stands in for it)" } else { "" };
        return finding(State::Ok, format!("to {}{aside}", need.to));
    }
    let is_root = host.effective_uid == Some(0);
    let state = match need.purpose {
        Purpose::Measure => State::Failed,
        // Where etcd's files are root's, root needs no more than that.
        Purpose::FindMembers if is_root && need.capability == Capability::DacReadSearch => State::Note,
        Purpose::FindMembers => State::Warning,
        Purpose::Sometimes => State::Note,
    };
    let advice = if !host.initial_user_namespace {
        "see the user namespace"
    } else if host.capabilities.withhold(need.capability) {
        "allow it: capabilities.add of a container, CapabilityBoundingSet= of a unit"
    } else if is_root {
        "run as root with all capabilities"
    } else {
        "run as root, or grant it: AmbientCapabilities= of a unit, setcap"
    };
    let missing = if host.initial_user_namespace { "missing" } else { "worth nothing here" };
    finding(state, format!("{missing}; it is needed to {}", need.to)).advice(advice)
}

fn memlock(host: &Host) -> Finding {
    let what = "locked memory";
    let limit = match host.memlock {
        Memlock::Unlimited => "unlimited".to_owned(),
        Memlock::Bytes(bytes) => format!("limit {} KiB", bytes >> 10),
        Memlock::Unknown => "unknown limit".to_owned(),
    };
    if !host.counts_memlock() {
        let aside = "; this kernel does not count maps against it";
        return Finding::new(PRIVILEGES, what, State::Ok, limit + aside);
    }
    if host.memlock_suffices() {
        let raised = host.has(Capability::SysResource) && host.memlock != Memlock::Unlimited;
        let aside = if raised { ", which the probe raises for itself" } else { "" };
        return Finding::new(PRIVILEGES, what, State::Ok, limit + aside);
    }
    Finding::new(PRIVILEGES, what, State::Failed, format!("{limit}; this kernel counts maps against it"))
        .advice("raise it: --ulimit memlock=-1 of a container, LimitMEMLOCK=infinity of a unit")
}
