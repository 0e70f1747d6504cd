//! Cgroup paths from real hosts, and fixture hierarchies.

use std::{fs, os::unix::fs::MetadataExt};

use super::*;
use crate::support::fixture::Tree;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn owners_are_derived_from_paths() {
    let uid = "1234abcd-11ee-22ff-8899-001122334455";
    let uid_ = "1234abcd_11ee_22ff_8899_001122334455";
    let hash = "8b9f1e6d6c0a5a0ad8ac1a9e1b1ce2f1";
    let in_pod = "pod 1234abcd…, container 0123456789ab";
    let cases = [
        (format!("/kubepods/burstable/pod{uid}/{ID}"), in_pod, "cgroupfs driver"),
        (format!("/kubepods/pod{uid}/{ID}"), in_pod, "cgroupfs driver, guaranteed"),
        (format!("/kubepods/pod{uid}"), "pod 1234abcd…", "the pod as a whole"),
        (
            format!("/kubepods/burstable/pod{hash}/{ID}"),
            "pod 8b9f1e6d…, container 0123456789ab",
            "a static pod, as kubeadm's etcd is",
        ),
        (
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/cri-containerd-{ID}.scope"
            ),
            in_pod,
            "systemd driver with containerd",
        ),
        (
            format!("/kubepods.slice/kubepods-pod{uid_}.slice/crio-{ID}.scope/container"),
            in_pod,
            "CRI-O with a separate cgroup of the container",
        ),
        (
            format!("/kubepods.slice/kubepods-pod{uid_}.slice/crio-conmon-{ID}.scope"),
            "pod 1234abcd…, monitor of container 0123456789ab",
            "CRI-O's monitor",
        ),
        (
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid_}.slice/docker-{ID}.scope"
            ),
            in_pod,
            "systemd driver with docker",
        ),
        (
            format!(
                "/system.slice/containerd.service/kubepods-burstable-pod{uid_}.slice:cri-containerd:{ID}"
            ),
            in_pod,
            "containerd and kubelet disagree on the driver",
        ),
        (
            format!(
                "/system.slice/docker-{}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
                 kubelet-kubepods-burstable-pod{uid_}.slice/cri-containerd-{ID}.scope",
                "f".repeat(64)
            ),
            in_pod,
            "kind: a node in a container",
        ),
        (
            format!("/docker/{}/kubelet/kubepods/burstable/pod{uid}/{ID}", "f".repeat(64)),
            in_pod,
            "an older version of kind",
        ),
        (format!("/docker/{ID}"), "container 0123456789ab", "docker by itself"),
        (format!("/system.slice/docker-{ID}.scope"), "container 0123456789ab", "docker with systemd"),
        (
            format!("/system.slice/docker-{ID}.scope/system.slice/etcd.service"),
            "container 0123456789ab",
            "systemd in a container",
        ),
        (format!("/machine.slice/libpod-{ID}.scope/container"), "container 0123456789ab", "podman"),
        (format!("/machine.slice/libpod-conmon-{ID}.scope"), "monitor of container 0123456789ab", "podman's"),
        ("/system.slice/etcd.service".to_owned(), "unit etcd.service", "a service"),
        (
            "/system.slice/system-getty.slice/getty@tty1.service".to_owned(),
            "unit getty@tty1.service",
            "an instance",
        ),
        ("/init.scope".to_owned(), "unit init.scope", "systemd itself"),
        (
            "/user.slice/user-1000.slice/session-3.scope".to_owned(),
            "user 1000, unit session-3.scope",
            "a login",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/etcd.service".to_owned(),
            "user 1000, unit etcd.service",
            "a user's service",
        ),
        ("/user.slice/user-1000.slice".to_owned(), "user 1000", "a user as a whole"),
        ("/kubepods/burstable".to_owned(), "/kubepods/burstable", "a class of pods"),
        ("/podcast".to_owned(), "/podcast", "not a pod"),
        ("/lxc/web".to_owned(), "/lxc/web", "anything else"),
        ("/".to_owned(), "/", "the root"),
    ];
    for (path, expected, why) in cases {
        assert_eq!(owner(&path).to_string(), expected, "{path}: {why}");
    }
    assert_eq!(
        owner(&format!("/kubepods.slice/kubepods-pod{uid_}.slice/crio-{ID}.scope")),
        CgroupOwner::Pod { uid: uid.to_owned(), container: Some(ID.to_owned()) },
        "in full, and the uid as the API server has it"
    );
}

const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
    38 31 0:35 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n\
    39 31 0:36 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
    41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

#[test]
fn hierarchies_are_read_from_the_mounts_of_pid_1() {
    let tree = Tree::with(&[
        ("proc/1/mountinfo", HYBRID),
        ("proc/self/mountinfo", "1 1 0:38 / /elsewhere rw - cgroup2 cgroup2 rw\n"),
    ]);
    let proc = tree.join("proc");
    let closed = Roots::read(&proc);
    assert_eq!(closed.unified, Some(proc.join("self/root/elsewhere")), "access to pid 1's root is denied");
    assert!(closed.v1.is_empty());

    tree.write("proc/1/root/sys/fs/cgroup/blkio/tasks", "");
    let roots = Roots::read(&proc);
    let below = |name: &str| proc.join("1/root/sys/fs/cgroup").join(name);
    assert_eq!(roots.unified, Some(below("unified")));
    assert_eq!((&roots.v1["cpu"], &roots.v1["cpuacct"]), (&below("cpu,cpuacct"), &below("cpu,cpuacct")));
    assert_eq!(roots.v1["blkio"], below("blkio"));
    assert!(!roots.v1.contains_key("pids"), "a part of a hierarchy does not count");
    assert_eq!(Hierarchy::of_block_io(&roots), Hierarchy::Blkio);
    assert_eq!(Hierarchy::of_block_io(&closed), Hierarchy::Unified);
}

#[test]
fn a_process_has_one_cgroup_per_hierarchy() {
    let tree =
        Tree::with(&[("7/cgroup", "9:name=systemd:/a\n7:blkio:/b/c\n1:cpu,cpuacct:/d\n0::/unified/e:f\n")]);
    let membership = Membership::of_process(7, tree.path()).unwrap();
    assert_eq!(membership.unified.as_deref(), Some("/unified/e:f"));
    assert_eq!(membership.path(), Some("/unified/e:f"));
    assert_eq!((&*membership.v1["cpu"], &*membership.v1["cpuacct"]), ("/d", "/d"));
    assert_eq!(Membership::of_process(8, tree.path()), None);

    let roots = Roots {
        unified: Some("/u".into()),
        v1: [("blkio".to_owned(), "/r".into()), ("pids".to_owned(), "/p".into())].into(),
    };
    let paths = |controller: &str| {
        let (version, groups) = membership.lineage(&roots, controller).unwrap();
        (version, groups.into_iter().map(|group| group.directory.display().to_string()).collect::<Vec<_>>())
    };
    assert_eq!(
        paths("blkio"),
        (CgroupVersion::V1, vec!["/r/b/c".to_owned(), "/r/b".to_owned(), "/r/".to_owned()])
    );
    let unified = vec!["/u/unified/e:f".to_owned(), "/u/unified".to_owned(), "/u/".to_owned()];
    assert_eq!(paths("cpu"), (CgroupVersion::V2, unified), "not mounted as version 1");
    let foreign = Membership { unified: Some("/../other".to_owned()), ..Membership::default() };
    assert_eq!(foreign.unified_lineage(&roots), None, "outside of our cgroup namespace");
}

#[test]
fn cgroups_are_named_by_the_inode_of_their_directory() {
    let tree = Tree::with(&[("v2/a.slice/b.service/cgroup.procs", ""), ("v1/c/tasks", "")]);
    let roots = Roots { unified: Some(tree.join("v2")), v1: [("blkio".to_owned(), tree.join("v1"))].into() };
    let id = |path: &str| fs::metadata(tree.join(path)).unwrap().ino();
    let mut names = CgroupNames::default();
    assert!(names.refresh(&roots));
    let service = id("v2/a.slice/b.service");
    let cases = [
        (Hierarchy::Unified, service, Some("/a.slice/b.service")),
        (Hierarchy::Unified, id("v2"), Some("/")),
        (Hierarchy::Blkio, id("v1/c"), Some("/c")),
        (Hierarchy::Blkio, service, None),
        (Hierarchy::Unified, id("v2/a.slice/b.service/cgroup.procs"), None),
    ];
    for (hierarchy, id, expected) in cases {
        assert_eq!(names.path(hierarchy, id), expected, "{hierarchy:?} {id}");
    }
    fs::remove_dir_all(tree.join("v2/a.slice")).unwrap();
    assert!(names.refresh(&roots));
    assert_eq!(
        names.path(Hierarchy::Unified, service),
        Some("/a.slice/b.service"),
        "a removed cgroup keeps its name"
    );
}

#[test]
fn a_walk_that_is_too_deep_is_incomplete() {
    let deep = |levels: usize| format!("{}tasks", "d/".repeat(levels));
    let mut names = CgroupNames::default();
    for (levels, complete) in [(11, true), (12, false)] {
        let tree = Tree::with(&[(&deep(levels), "")]);
        let roots = Roots { unified: Some(tree.path().into()), ..Roots::default() };
        assert_eq!(names.refresh(&roots), complete, "{levels} levels");
    }
}

#[test]
fn this_host_has_cgroups() {
    let proc = Path::new("/proc");
    let (roots, me) = (Roots::read(proc), Membership::of_process(std::process::id(), proc).unwrap());
    assert!(me.path().is_some_and(|path| path.starts_with('/')), "{me:?}");
    if roots != Roots::default() {
        CgroupNames::default().refresh(&roots);
    }
}
