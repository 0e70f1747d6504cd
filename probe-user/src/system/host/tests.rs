//! Fixture hosts: files below a directory, read like the files of a real host.

use std::{
    os::unix::fs::symlink,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

/// A root directory, removed on drop.
struct Machine(PathBuf);

impl Machine {
    fn with(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let machine = Self(std::env::temp_dir().join(format!("host-test-{}-{n}", std::process::id())));
        for (path, text) in files {
            let path = machine.0.join(path);
            fs::create_dir_all(path.parent().expect("below the root")).unwrap();
            fs::write(path, text).unwrap();
        }
        machine
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MOUNT: &str = "22 27 0:21 / /there rw,relatime - ";

#[test]
fn this_machine_is_read() {
    let host = Host::read();
    assert!(host.version.is_some_and(|version| version >= KernelVersion::new(5, 10, 0)), "{host:?}");
    assert_eq!(host.btf, Btf::Readable);
    assert_ne!(host.capabilities.bounding, 0);
    assert_eq!(host.effective_uid, Some(rustix::process::geteuid().as_raw()));
}

#[test]
fn facts_that_cannot_be_read_are_unknown() {
    let host = Host::below(&Machine::with(&[]).0);
    assert_eq!((host.version, host.effective_uid, host.ftrace_enabled), (None, None, None));
    assert_eq!((host.btf, host.lockdown, host.memlock), (Btf::Missing, Lockdown::Unknown, Memlock::Unknown));
    assert_eq!((host.tracefs, host.cgroups), (Tracefs::NotMounted, Cgroups::NotMounted));
    assert!(!host.initial_pid_namespace && !host.initial_user_namespace && !host.seccomp);
}

#[test]
fn numbers_come_from_their_files() {
    let machine = Machine::with(&[
        ("proc/sys/kernel/osrelease", "5.10.0-32-cloud-amd64\n"),
        ("proc/sys/kernel/perf_event_paranoid", "-1\n"),
        ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
        ("proc/sys/kernel/ftrace_enabled", "0\n"),
    ]);
    let host = Host::below(&machine.0);
    assert_eq!(host.version, Some(KernelVersion::new(5, 10, 0)));
    assert!(host.counts_memlock(), "5.10 does");
    assert_eq!(host.perf_event_paranoid, Some(-1));
    assert_eq!(host.unprivileged_bpf_disabled, Some(2));
    assert_eq!(host.ftrace_enabled, Some(0));
}

#[test]
fn the_limit_on_locked_memory_is_what_it_can_be_raised_to() {
    let cases = [
        ("65536                65536", Memlock::Bytes(65_536), "fixed"),
        ("65536                8388608", Memlock::Bytes(65_536), "it is raised to unlimited, or not at all"),
        ("65536                unlimited", Memlock::Unlimited, "any process may raise it"),
        ("unlimited            unlimited", Memlock::Unlimited, "none"),
    ];
    let real = fs::read_to_string("/proc/self/limits").unwrap();
    for (limits, expected, why) in cases {
        let line = |line: &str| match line.strip_prefix("Max locked memory") {
            Some(_) => format!("Max locked memory         {limits}            bytes     \n"),
            None => format!("{line}\n"),
        };
        let text: Vec<_> = real.lines().map(line).collect();
        let machine = Machine::with(&[("proc/self/limits", &text.concat())]);
        assert_eq!(Host::below(&machine.0).memlock, expected, "{why}");
    }
}

#[test]
fn initial_namespaces_are_distinguished_from_others() {
    let cases = [
        ("pid:[4026531836]", "user:[4026531837]", (true, true), "the host's"),
        ("pid:[4026532211]", "user:[4026531837]", (false, true), "a container's"),
        ("pid:[4026532211]", "user:[4026532210]", (false, false), "a rootless container's"),
        ("pid:[4026531837]", "user:[4026531836]", (false, false), "numbers of another kind of namespace"),
    ];
    for (pid, user, expected, why) in cases {
        let machine = Machine::with(&[("proc/self/ns/net", "")]);
        for (kind, namespace) in [("pid", pid), ("user", user)] {
            symlink(namespace, machine.0.join("proc/self/ns").join(kind)).unwrap();
        }
        let host = Host::below(&machine.0);
        assert_eq!((host.initial_pid_namespace, host.initial_user_namespace), expected, "{why}");
    }
}

#[test]
fn an_empty_mount_point_is_not_tracefs() {
    let cases = [
        ("sys/kernel/tracing/x", Tracefs::NotMounted, "an empty directory"),
        ("sys/kernel/tracing/events/syscalls/x", Tracefs::Readable("/sys/kernel/tracing"), "the usual path"),
        (
            "sys/kernel/debug/tracing/events/syscalls/x",
            Tracefs::Readable("/sys/kernel/debug/tracing"),
            "the path before Linux 4.1",
        ),
        ("sys/kernel/tracing/events/sched/x", Tracefs::NoSyscalls("/sys/kernel/tracing"), "no system calls"),
    ];
    for (file, expected, why) in cases {
        assert_eq!(Host::below(&Machine::with(&[(file, "")]).0).tracefs, expected, "{why}");
    }
}

#[test]
fn the_cgroup_version_follows_from_the_mounts() {
    let cases = [
        (&[][..], Cgroups::NotMounted, "nothing"),
        (&["tmpfs tmpfs rw", "cgroup cgroup rw,memory"], Cgroups::V1, "controllers only"),
        (&["cgroup2 cgroup2 rw"], Cgroups::V2, "one tree"),
        (&["cgroup cgroup rw,blkio", "cgroup2 cgroup2 rw"], Cgroups::Hybrid, "both"),
    ];
    for (kinds, expected, why) in cases {
        let mounts: Vec<_> = kinds.iter().map(|kind| format!("{MOUNT}{kind}\n")).collect();
        let machine = Machine::with(&[("proc/self/mountinfo", &mounts.concat())]);
        assert_eq!(Host::below(&machine.0).cgroups, expected, "{why}");
    }
}

#[test]
fn a_kernel_without_lockdown_differs_from_an_unknown_one() {
    let securityfs = format!("{MOUNT}securityfs securityfs rw\n");
    let cases = [
        (&[("proc/self/mountinfo", &*securityfs)][..], Lockdown::None, "mounted, and without the file"),
        (&[], Lockdown::Unknown, "not mounted"),
        (
            &[("sys/kernel/security/lockdown", "none integrity [confidentiality]\n")],
            Lockdown::Confidentiality,
            "reported",
        ),
    ];
    for (files, expected, why) in cases {
        assert_eq!(Host::below(&Machine::with(files).0).lockdown, expected, "{why}");
    }
}
