//! The lines about the kernel and about the privileges of this process.

use procfs::KernelVersion;

use super::{DoctorFinding, Severity, try_hooks::StartFailure};
use crate::system::host::{
    Btf, Capability, Cgroups, Host, Lockdown, Memlock, Need, Purpose, Tracefs, needed,
};

const KERNEL: &str = "kernel";
const PRIVILEGES: &str = "privileges";

/// The oldest kernel that the programs support.
const OLDEST: KernelVersion = KernelVersion { major: 5, minor: 10, patch: 0 };

/// Returns the lines about the kernel; `works` is whether a hook works.
pub fn kernel(host: &Host, works: bool) -> Vec<DoctorFinding> {
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

/// Returns the lines about this process; `drop` is the result of dropping the privileges that are not needed
/// after the start.
pub fn privileges(host: &Host, drop: Option<&Result<(), StartFailure>>) -> Vec<DoctorFinding> {
    let user = match host.effective_uid {
        Some(0) => DoctorFinding::new(PRIVILEGES, "user", Severity::Ok, "root"),
        Some(uid) => DoctorFinding::new(PRIVILEGES, "user", Severity::Note, format!("{uid}, not root")),
        None => DoctorFinding::new(PRIVILEGES, "user", Severity::Note, "unknown"),
    };
    let mut findings = vec![user, user_namespace(host), pid_namespace(host)];
    findings.extend(needed(host.version).map(|need| capability(host, need)));
    findings.push(memlock(host));
    if let Some(Err(failure)) = drop {
        let finding = DoctorFinding::new(PRIVILEGES, "giving them up", Severity::Failed, &failure.message);
        findings
            .push(finding.advice("check for a security module or a seccomp filter that forbids capset(2)"));
    }
    findings
}

fn version(host: &Host) -> DoctorFinding {
    let name = |state| DoctorFinding::new(KERNEL, "version", state, format!("Linux {}", host.release));
    match host.version {
        Some(version) if version < OLDEST => name(Severity::Warning).advice("use Linux 5.10 or later"),
        Some(_) => name(Severity::Ok),
        None => name(Severity::Note),
    }
}

fn btf(host: &Host) -> DoctorFinding {
    let btf = |state, detail: &str| DoctorFinding::new(KERNEL, "BTF", state, detail);
    match &host.btf {
        Btf::Readable => btf(Severity::Ok, "/sys/kernel/btf/vmlinux"),
        Btf::Missing => btf(Severity::Failed, "/sys/kernel/btf/vmlinux does not exist").advice(
            "mount the host's /sys in this container, or use a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
        Btf::Unreadable(error) => {
            btf(Severity::Failed, &format!("cannot read /sys/kernel/btf/vmlinux: {error}"))
                .advice("grant this process read access")
        }
    }
}

fn lockdown(host: &Host) -> DoctorFinding {
    let level = host.lockdown.as_str();
    match host.lockdown {
        Lockdown::None | Lockdown::Integrity => DoctorFinding::new(KERNEL, "lockdown", Severity::Ok, level),
        Lockdown::Confidentiality => {
            let detail = "confidentiality: programs must not read the kernel's memory";
            DoctorFinding::new(KERNEL, "lockdown", Severity::Failed, detail)
                .advice("boot with lockdown=integrity, or without lockdown=")
        }
        Lockdown::Unknown => {
            let detail = "unknown: securityfs is not mounted, and this process cannot mount it";
            DoctorFinding::new(KERNEL, "lockdown", Severity::Note, detail)
                .advice("to read it: mount -t securityfs securityfs /sys/kernel/security")
        }
    }
}

/// Returns the severity of a fact that prevents only tracepoints.
fn tracepoint_severity(works: bool) -> Severity {
    if works { Severity::Note } else { Severity::Failed }
}

fn tracefs(host: &Host, works: bool) -> DoctorFinding {
    let state = tracepoint_severity(works);
    let finding = |state, detail: &str| DoctorFinding::new(KERNEL, "tracefs", state, detail);
    match host.tracefs {
        Tracefs::Readable(at) => finding(Severity::Ok, at),
        Tracefs::Closed(at) => finding(state, &format!("{at} is not accessible to this user"))
            .advice("run as root, or with CAP_DAC_READ_SEARCH"),
        Tracefs::NoSyscalls(at) => finding(state, &format!("{at} has no tracepoints of system calls"))
            .advice("use a kernel built with CONFIG_FTRACE_SYSCALLS"),
        Tracefs::NotMounted if host.has(Capability::SysAdmin) => {
            finding(Severity::Ok, "not mounted; the probe mounts it privately while it attaches")
        }
        Tracefs::NotMounted => {
            finding(state, "not mounted").advice("mount -t tracefs tracefs /sys/kernel/tracing")
        }
    }
}

fn ftrace_enabled(host: &Host) -> DoctorFinding {
    let what = "ftrace_enabled";
    match host.ftrace_enabled {
        Some(0) => DoctorFinding::new(
            KERNEL,
            what,
            Severity::Warning,
            "0: fentry hooks are refused or receive no events",
        )
        .advice("sysctl -w kernel.ftrace_enabled=1"),
        Some(value) => DoctorFinding::new(KERNEL, what, Severity::Ok, value.to_string()),
        None => DoctorFinding::new(KERNEL, what, Severity::Note, "absent: this kernel has no dynamic ftrace"),
    }
}

fn perf_event_paranoid(host: &Host, works: bool) -> DoctorFinding {
    let what = "perf_event_paranoid";
    match host.perf_event_paranoid {
        Some(level) if host.is_too_paranoid() => {
            let detail = format!(
                "{level}: above 2, kernels of Debian and Ubuntu restrict tracepoints to CAP_SYS_ADMIN"
            );
            DoctorFinding::new(KERNEL, what, tracepoint_severity(works), detail)
                .advice("sysctl -w kernel.perf_event_paranoid=2, or grant CAP_SYS_ADMIN")
        }
        Some(level) => {
            DoctorFinding::new(KERNEL, what, Severity::Ok, format!("{level}, does not restrict CAP_PERFMON"))
        }
        None => DoctorFinding::new(KERNEL, what, Severity::Note, "absent: this kernel has no perf events")
            .advice("use a kernel built with CONFIG_PERF_EVENTS"),
    }
}

/// Never needs action: the probe has `CAP_BPF`, or cannot run regardless of this value.
fn unprivileged_bpf(host: &Host) -> DoctorFinding {
    let what = "unprivileged_bpf_disabled";
    let detail = match host.unprivileged_bpf_disabled {
        Some(value) => format!("{value}, does not restrict CAP_BPF"),
        None => "absent".to_owned(),
    };
    DoctorFinding::new(KERNEL, what, Severity::Ok, detail)
}

fn cgroups(host: &Host) -> DoctorFinding {
    let (state, detail) = match host.cgroups {
        Cgroups::V1 => (Severity::Ok, "version 1"),
        Cgroups::V2 => (Severity::Ok, "version 2"),
        Cgroups::Hybrid => (Severity::Ok, "version 1 and version 2 (hybrid)"),
        Cgroups::NotMounted => (Severity::Note, "not mounted"),
    };
    DoctorFinding::new(KERNEL, "cgroups", state, detail)
}

fn user_namespace(host: &Host) -> DoctorFinding {
    let what = "user namespace";
    if host.initial_user_namespace {
        return DoctorFinding::new(PRIVILEGES, what, Severity::Ok, "the host's");
    }
    let detail = "not the host's, so the capabilities of this process do not apply to the kernel";
    DoctorFinding::new(PRIVILEGES, what, Severity::Failed, detail)
        .advice("run in the host's: no rootless container, hostUsers: true in Kubernetes")
}

fn pid_namespace(host: &Host) -> DoctorFinding {
    let what = "pid namespace";
    if host.initial_pid_namespace {
        return DoctorFinding::new(PRIVILEGES, what, Severity::Ok, "the host's");
    }
    DoctorFinding::new(
        PRIVILEGES,
        what,
        Severity::Failed,
        "not the host's, so its pids do not match the kernel's",
    )
    .advice("run in the host's: --pid=host with podman and docker, hostPID: true in Kubernetes")
}

fn capability(host: &Host, need: Need) -> DoctorFinding {
    let name = need.capability.as_str();
    let finding = |state, detail: String| DoctorFinding::new(PRIVILEGES, name, state, detail);
    if host.has_or_substitute(need.capability) {
        let is_substituted = !host.has(need.capability);
        let aside = if is_substituted { " (granted by another capability)" } else { "" };
        return finding(Severity::Ok, format!("to {}{aside}", need.to));
    }
    let is_root = host.effective_uid == Some(0);
    let state = match need.purpose {
        Purpose::Measure => Severity::Failed,
        // If etcd's files are owned by root, root does not need this capability.
        Purpose::FindMembers if is_root && need.capability == Capability::DacReadSearch => Severity::Note,
        Purpose::FindMembers => Severity::Warning,
        Purpose::Sometimes => Severity::Note,
    };
    let advice = if !host.initial_user_namespace {
        "see the user namespace"
    } else if host.capabilities.withholds(need.capability) {
        "allow it: capabilities.add of the container, CapabilityBoundingSet= of the unit"
    } else if is_root {
        "run as root with all capabilities"
    } else {
        "run as root, or grant it: AmbientCapabilities= of the unit, setcap"
    };
    let missing = if host.initial_user_namespace { "missing" } else { "without effect here" };
    finding(state, format!("{missing}; required to {}", need.to)).advice(advice)
}

fn memlock(host: &Host) -> DoctorFinding {
    let what = "locked memory";
    let limit = match host.memlock {
        Memlock::Unlimited => "unlimited".to_owned(),
        Memlock::Bytes(bytes) => format!("limit {} KiB", bytes >> 10),
        Memlock::Unknown => "unknown limit".to_owned(),
    };
    if !host.counts_memlock() {
        let aside = "; this kernel does not count maps against it";
        return DoctorFinding::new(PRIVILEGES, what, Severity::Ok, limit + aside);
    }
    if host.memlock_suffices() {
        let raised = host.has(Capability::SysResource) && host.memlock != Memlock::Unlimited;
        let aside = if raised { ", which the probe raises" } else { "" };
        return DoctorFinding::new(PRIVILEGES, what, Severity::Ok, limit + aside);
    }
    DoctorFinding::new(
        PRIVILEGES,
        what,
        Severity::Failed,
        format!("{limit}; this kernel counts maps against it"),
    )
    .advice("raise it: --ulimit memlock=-1 of the container, LimitMEMLOCK=infinity of the unit")
}
