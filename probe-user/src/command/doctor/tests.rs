//! Diagnoses of constructed hosts.

use procfs::KernelVersion;

use super::{
    try_hooks::{HookAttempt, StartFailure},
    *,
};
use crate::system::{
    host::{Btf, Capabilities, Capability, Cgroups, Lockdown, Memlock, Tracefs},
    netns_spawner::NetnsSpawner,
};

use Hook::{Fentry, Tracepoint};

/// A host on which everything is ok.
fn sound() -> Host {
    Host {
        release: "6.1.0-32-amd64".to_owned(),
        version: Some(KernelVersion::new(6, 1, 0)),
        btf: Btf::Readable,
        lockdown: Lockdown::Integrity,
        effective_uid: Some(0),
        capabilities: Capabilities { effective: u64::MAX, permitted: u64::MAX, bounding: u64::MAX },
        memlock: Memlock::Bytes(8 << 20),
        tracefs: Tracefs::Readable("/sys/kernel/tracing"),
        perf_event_paranoid: Some(2),
        unprivileged_bpf_disabled: Some(2),
        ftrace_enabled: Some(1),
        cgroups: Cgroups::V2,
        initial_pid_namespace: true,
        initial_user_namespace: true,
        seccomp: false,
    }
}

fn without(capabilities: &[Capability]) -> Host {
    let lost = capabilities.iter().fold(0_u64, |set, capability| set | 1 << *capability as u8);
    let effective = !lost;
    Host { capabilities: Capabilities { effective, ..sound().capabilities }, ..sound() }
}

fn works(hook: Hook) -> HookAttempt {
    HookAttempt { hook, allowed: true, outcome: Ok(()) }
}

fn refused(hook: Hook, exit_code: u8) -> HookAttempt {
    HookAttempt { hook, allowed: true, outcome: Err(start_failure(exit_code)) }
}

fn start_failure(exit_code: u8) -> StartFailure {
    StartFailure { message: "cannot load it".to_owned(), exit_code }
}

fn diagnosis(host: Host, attempts: &[HookAttempt]) -> Diagnosis {
    let attempts =
        PrivilegedAttempts { hooks: attempts.to_vec(), drop: None, netns_spawner: NetnsSpawner::default() };
    diagnose(host, &attempts, InspectedMembers::default(), 0)
}

fn line<'a>(diagnosis: &'a Diagnosis, what: &str) -> &'a DoctorFinding {
    let mut found = diagnosis.findings.iter().filter(|finding| finding.what == what);
    found.next().unwrap_or_else(|| panic!("no line about {what}: {diagnosis:#?}"))
}

#[test]
fn a_sound_machine_has_nothing_to_do() {
    let diagnosis = diagnosis(sound(), &[works(Fentry), works(Tracepoint)]);
    assert_eq!((diagnosis.fit, diagnosis.hook, diagnosis.exit_code()), (true, Some("fentry"), 0));
    let worse: Vec<_> = diagnosis.findings.iter().filter(|finding| finding.state > Severity::Ok).collect();
    assert_eq!(worse.len(), 1, "only that no etcd runs: {worse:#?}");
}

#[test]
fn every_line_that_is_not_ok_has_advice() {
    use Capability::{Bpf, DacOverride, DacReadSearch, Perfmon, SysAdmin, SysPtrace, SysResource};
    use Severity::{Failed, Note, Ok, Warning};
    let old = |host: Host| Host { version: Some(KernelVersion::new(5, 10, 0)), ..host };
    let ordinary_user = |host: Host| Host { effective_uid: Some(65534), ..host };
    let cases = [
        (Host { btf: Btf::Missing, ..sound() }, "BTF", Failed, "CONFIG_DEBUG_INFO_BTF"),
        (Host { btf: Btf::Unreadable("no".to_owned()), ..sound() }, "BTF", Failed, "grant this process read"),
        (Host { lockdown: Lockdown::Confidentiality, ..sound() }, "lockdown", Failed, "lockdown=integrity"),
        (Host { lockdown: Lockdown::Unknown, ..sound() }, "lockdown", Note, "securityfs"),
        (Host { lockdown: Lockdown::None, ..sound() }, "lockdown", Ok, ""),
        (Host { tracefs: Tracefs::NotMounted, ..sound() }, "tracefs", Ok, ""),
        (
            Host { tracefs: Tracefs::NotMounted, ..without(&[SysAdmin]) },
            "tracefs",
            Failed,
            "mount -t tracefs",
        ),
        (
            ordinary_user(Host { tracefs: Tracefs::Closed("/sys/kernel/tracing"), ..sound() }),
            "tracefs",
            Failed,
            "CAP_DAC_READ_SEARCH",
        ),
        (
            Host { tracefs: Tracefs::NoSyscalls("/sys/kernel/tracing"), ..sound() },
            "tracefs",
            Failed,
            "CONFIG_FTRACE_SYSCALLS",
        ),
        (Host { ftrace_enabled: Some(0), ..sound() }, "ftrace_enabled", Warning, "sysctl -w"),
        (
            Host { perf_event_paranoid: Some(3), ..without(&[SysAdmin]) },
            "perf_event_paranoid",
            Failed,
            "CAP_SYS_ADMIN",
        ),
        (Host { perf_event_paranoid: Some(3), ..sound() }, "perf_event_paranoid", Ok, ""),
        (Host { initial_pid_namespace: false, ..sound() }, "pid namespace", Failed, "hostPID: true"),
        (Host { initial_user_namespace: false, ..sound() }, "user namespace", Failed, "hostUsers: true"),
        (Host { initial_user_namespace: false, ..sound() }, "CAP_BPF", Failed, "see the user namespace"),
        (Host { version: Some(KernelVersion::new(4, 18, 0)), ..sound() }, "version", Warning, "5.10"),
        (without(&[Bpf]), "CAP_BPF", Ok, ""),
        (without(&[Bpf, SysAdmin]), "CAP_BPF", Failed, "run as root with all"),
        (ordinary_user(without(&[Perfmon, SysAdmin])), "CAP_PERFMON", Failed, "AmbientCapabilities="),
        (without(&[SysPtrace]), "CAP_SYS_PTRACE", Warning, "run as root"),
        (without(&[DacReadSearch, DacOverride]), "CAP_DAC_READ_SEARCH", Note, "run as root"),
        (ordinary_user(without(&[DacReadSearch, DacOverride])), "CAP_DAC_READ_SEARCH", Warning, "setcap"),
        (without(&[SysAdmin]), "CAP_SYS_ADMIN", Note, "run as root"),
        (
            Host { memlock: Memlock::Bytes(64 << 10), ..old(without(&[SysResource])) },
            "locked memory",
            Failed,
            "LimitMEMLOCK=",
        ),
        (Host { memlock: Memlock::Bytes(64 << 10), ..old(sound()) }, "locked memory", Ok, ""),
        (Host { memlock: Memlock::Bytes(64 << 10), ..without(&[SysResource]) }, "locked memory", Ok, ""),
        (old(without(&[SysResource])), "locked memory", Ok, ""),
    ];
    for (host, what, state, advice) in cases {
        let diagnosis = diagnosis(host, &[refused(Tracepoint, exit_code::NO_PRIVILEGE)]);
        let finding = line(&diagnosis, what);
        assert_eq!(finding.state, state, "{finding:?}");
        match &finding.advice {
            Some(given) => assert!(given.contains(advice) && !advice.is_empty(), "{advice:?} in {finding:?}"),
            None => assert_eq!(advice, "", "{finding:?}"),
        }
    }
}

#[test]
fn a_withheld_capability_must_be_allowed_first() {
    let none = Capabilities { effective: 0, permitted: 0, bounding: 0 };
    let diagnosis =
        diagnosis(Host { capabilities: none, ..sound() }, &[refused(Tracepoint, exit_code::NO_PRIVILEGE)]);
    let advice = line(&diagnosis, "CAP_BPF").advice.as_deref();
    assert!(advice.is_some_and(|advice| advice.contains("capabilities.add")), "{advice:?}");
}

#[test]
fn a_refusal_is_explained_by_the_facts() {
    use Capability::{Bpf, Perfmon, SysAdmin, SysResource};
    let old = |host: Host| Host {
        version: Some(KernelVersion::new(5, 10, 0)),
        memlock: Memlock::Bytes(64 << 10),
        ..host
    };
    let cases = [
        (Host { lockdown: Lockdown::Confidentiality, ..without(&[Bpf]) }, true, "the kernel is locked down"),
        (without(&[Bpf, Perfmon, SysAdmin]), true, "CAP_BPF and CAP_PERFMON are missing"),
        (without(&[Bpf, SysAdmin]), true, "CAP_BPF is missing"),
        (without(&[Perfmon, SysAdmin]), true, "CAP_PERFMON is missing"),
        (Host { initial_user_namespace: false, ..without(&[Bpf]) }, true, "root in this user namespace"),
        (Host { tracefs: Tracefs::NotMounted, ..without(&[SysAdmin]) }, false, "tracefs is not mounted"),
        (Host { tracefs: Tracefs::Closed("/x"), ..sound() }, false, "tracefs is closed to this user"),
        (Host { perf_event_paranoid: Some(3), ..without(&[SysAdmin]) }, false, "kernel.perf_event_paranoid"),
        (Host { tracefs: Tracefs::NotMounted, ..sound() }, false, "no capability is missing: a security"),
        (old(without(&[SysResource])), false, "this kernel counts maps against"),
        (
            Host { memlock: Memlock::Bytes(8 << 20), ..old(without(&[SysResource])) },
            false,
            "this kernel counts maps against",
        ),
        (old(sound()), false, "no capability is missing: a security module"),
        (Host { seccomp: true, ..sound() }, false, "no capability is missing: the seccomp filter"),
    ];
    for (host, hopeless, expected) in cases {
        let why = host.why_refused(true);
        assert!(why.starts_with(expected), "{expected:?}: {why:?}");
        assert_eq!(host.forbids_measuring(), hopeless, "another hook may do better: {why:?}");
    }
    let closed = Host { tracefs: Tracefs::Closed("/x"), ..sound() };
    assert!(closed.why_refused(false).starts_with("no capability"), "fentry needs no tracefs");
}

#[test]
fn the_exit_code_is_the_daemons_or_1_if_action_is_required() {
    let blocked = || Host { ftrace_enabled: Some(0), ..sound() };
    let (lacks, denied) = (exit_code::NO_KERNEL_SUPPORT, exit_code::NO_PRIVILEGE);
    let cases = [
        (sound(), vec![works(Fentry), works(Tracepoint)], Some("fentry"), 0, "all ok"),
        (sound(), vec![refused(Fentry, denied), works(Tracepoint)], Some("tracepoint"), 0, "one is enough"),
        (blocked(), vec![works(Tracepoint)], Some("tracepoint"), exit_code::DEGRADED, "a warning"),
        (
            sound(),
            vec![refused(Fentry, lacks), refused(Tracepoint, lacks)],
            None,
            lacks,
            "none, by the kernel",
        ),
        (
            sound(),
            vec![refused(Fentry, lacks), refused(Tracepoint, denied)],
            None,
            denied,
            "none, by privilege",
        ),
        (sound(), vec![], None, lacks, "none was tried"),
    ];
    for (host, attempts, hook, code, why) in cases {
        let diagnosis = diagnosis(host, &attempts);
        assert_eq!((diagnosis.hook, diagnosis.exit_code()), (hook, code), "{why}: {diagnosis:#?}");
        let heading = match (hook, code) {
            (None, _) => "UNFIT  no hook can be used".to_owned(),
            (Some(hook), 0) => format!("FIT  with the {hook} hook, nothing to do"),
            (Some(hook), _) => format!("FIT  with the {hook} hook, one line needs action"),
        };
        assert_eq!(render(&diagnosis).lines().next(), Some(&*heading), "{why}");
    }
}

#[test]
fn a_hook_that_is_not_allowed_does_not_make_it_fit() {
    let forbidden = |attempt| HookAttempt { allowed: false, ..attempt };
    let only_fentry = [refused(Fentry, exit_code::NO_KERNEL_SUPPORT), forbidden(works(Tracepoint))];
    let unfit = diagnosis(sound(), &only_fentry);
    assert_eq!((unfit.fit, unfit.hook, unfit.exit_code()), (false, None, exit_code::NO_KERNEL_SUPPORT));
    assert!(line(&unfit, "tracepoint").detail.contains("excluded by --hook"), "{unfit:#?}");
    let only_tracepoint = [forbidden(refused(Fentry, exit_code::NO_PRIVILEGE)), works(Tracepoint)];
    let fit = diagnosis(sound(), &only_tracepoint);
    assert_eq!((fit.fit, fit.hook, fit.exit_code()), (true, Some("tracepoint"), 0));
}

#[test]
fn a_probe_that_cannot_drop_privileges_does_not_run() {
    let drop = Some(Err(start_failure(exit_code::NO_PRIVILEGE)));
    let attempts =
        PrivilegedAttempts { hooks: vec![works(Fentry)], drop, netns_spawner: NetnsSpawner::default() };
    let diagnosis = diagnose(sound(), &attempts, InspectedMembers::default(), 0);
    assert_eq!((diagnosis.fit, diagnosis.exit_code()), (false, exit_code::NO_PRIVILEGE));
    assert_eq!(line(&diagnosis, "giving them up").state, Severity::Failed);
    assert!(render(&diagnosis).starts_with("UNFIT  privileges"), "{diagnosis:#?}");
}

#[test]
fn a_long_detail_is_truncated_in_text_and_complete_in_json() {
    let attempt = HookAttempt {
        outcome: Err(StartFailure { message: "ä".repeat(1000), exit_code: exit_code::NO_KERNEL_SUPPORT }),
        ..works(Fentry)
    };
    let diagnosis = diagnosis(sound(), &[attempt, works(Tracepoint)]);
    let text = render(&diagnosis);
    assert!(text.contains(&format!(" {}… => nothing", "ä".repeat(320))), "{text}");
    assert_eq!(line(&diagnosis, "fentry").detail.chars().count(), 1000);
}

#[test]
fn a_line_is_aligned_and_ends_with_the_advice() {
    let diagnosis = diagnosis(sound(), &[refused(Fentry, exit_code::NO_PRIVILEGE), works(Tracepoint)]);
    let text = render(&diagnosis);
    let expected = "
hooks
  fentry                     note     cannot load it => nothing: tracepoint works, and adds about 40 ns to every system call of this machine
  tracepoint                 ok       attached, passed the self-test, detached; this hook is used
";
    assert!(text.contains(expected), "{text}");
}
