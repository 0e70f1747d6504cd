//! The requirements of a test. No test is skipped silently: a missing requirement is a panic that names the
//! fix.

use std::fs;
use std::path::Path;

use crate::etcd;
use crate::machine::cgroup::Hierarchy;
use crate::machine::command;
use crate::machine::python;
use crate::observability::prometheus;

/// One requirement of a test.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    Root,
    /// The kernel's BTF, and the capability to load programs.
    Bpf,
    /// A kernel with FUSE: a process can serve a file system.
    Fuse,
    /// A cgroup hierarchy.
    Cgroups(Hierarchy),
    /// A program on the `PATH`, and the Debian package that contains it.
    Tool(&'static str, &'static str),
    /// An etcd whose version has this prefix.
    Etcd(&'static str),
    /// Prometheus and promtool.
    Prometheus,
    /// Alertmanager and amtool.
    Alertmanager,
    /// Helm and the Kubernetes schemas, for Python.
    Helm,
}

pub const LOOP_XFS: [Need; 4] = [
    Need::Tool("losetup", "mount"),
    Need::Tool("mount", "mount"),
    Need::Tool("mkfs.xfs", "xfsprogs"),
    Need::Tool("fsfreeze", "util-linux"),
];
pub const LOOP_BTRFS: [Need; 3] =
    [Need::Tool("losetup", "mount"), Need::Tool("mount", "mount"), Need::Tool("mkfs.btrfs", "btrfs-progs")];
pub const LOOP_EXT4: [Need; 4] = [
    Need::Tool("losetup", "mount"),
    Need::Tool("mount", "mount"),
    Need::Tool("mkfs.ext4", "e2fsprogs"),
    Need::Tool("fsfreeze", "util-linux"),
];
/// A disk with a configurable latency.
pub const SLOW_EXT4: [Need; 4] = [
    Need::Fuse,
    Need::Tool("losetup", "mount"),
    Need::Tool("mount", "mount"),
    Need::Tool("mkfs.ext4", "e2fsprogs"),
];
pub const NAMESPACES: [Need; 2] = [Need::Tool("unshare", "util-linux"), Need::Tool("ip", "iproute2")];

/// Panics with all missing requirements, if there are any.
///
/// # Panics
///
/// On purpose: a test without its requirements has shown nothing, in CI or elsewhere.
pub fn require(needs: &[Need]) {
    let missing = missing(needs);
    assert!(missing.is_empty(), "cannot run this test on this machine:\n  {}", missing.join("\n  "));
}

/// Returns one sentence for each missing requirement: what is missing, and how to install it.
pub fn missing(needs: &[Need]) -> Vec<String> {
    needs.iter().filter_map(|&need| lacks(need)).collect()
}

fn lacks(need: Need) -> Option<String> {
    match need {
        Need::Root => (!rustix::process::geteuid().is_root())
            .then(|| "cannot mount, trace or make namespaces without root; run as root".to_owned()),
        Need::Bpf => lacks_bpf(),
        Need::Fuse => (!Path::new("/dev/fuse").exists())
            .then(|| "cannot find /dev/fuse; this needs a kernel with CONFIG_FUSE_FS".to_owned()),
        Need::Cgroups(hierarchy) => hierarchy.root().err().map(|error| format!("{error:#}; mount it")),
        Need::Tool(tool, package) => command::find(tool).is_none().then(|| {
            format!("cannot find `{tool}`; `cargo xtask setup` or `apt-get install {package}` gets it")
        }),
        Need::Etcd(version) => etcd::find(version).err().map(|error| format!("{error:#}")),
        Need::Prometheus => lacks_program(["prometheus", "promtool"]),
        Need::Alertmanager => lacks_program(["prometheus-alertmanager", "amtool"]),
        Need::Helm => python::find().err().map(|error| format!("{error:#}")),
    }
}

fn lacks_program(programs: [&str; 2]) -> Option<String> {
    programs.into_iter().find_map(|program| prometheus::find(program).err()).map(|error| format!("{error:#}"))
}

fn lacks_bpf() -> Option<String> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some(
            "cannot find /sys/kernel/btf/vmlinux; this needs a kernel with CONFIG_DEBUG_INFO_BTF".to_owned(),
        );
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    (!may_load_programs(&status))
        .then(|| "cannot load kernel programs without CAP_BPF and CAP_PERFMON; run as full root".to_owned())
}

/// Parses `CapEff`: `CAP_SYS_ADMIN` (21), or both `CAP_PERFMON` (38) and `CAP_BPF` (39).
fn may_load_programs(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let has = |capability: u32| bits >> capability & 1 == 1;
    has(21) || has(38) && has(39)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_need_the_right_capabilities() {
        let cases = [
            ("CapEff:\t0000000000200000\n", true, "CAP_SYS_ADMIN alone is enough"),
            ("CapEff:\t000000c000000000\n", true, "CAP_BPF with CAP_PERFMON"),
            ("CapEff:\t0000008000000000\n", false, "CAP_BPF alone cannot trace"),
            ("CapEff:\t0000000000000000\n", false, "root of a container without capabilities"),
            ("", false, "no such line"),
        ];
        for (status, expected, why) in cases {
            assert_eq!(may_load_programs(status), expected, "{why}");
        }
    }

    #[test]
    fn a_missing_requirement_names_the_fix() {
        assert_eq!(missing(&[Need::Tool("sh", "dash")]), Vec::<String>::new());
        let reported = missing(&[Need::Tool("no-such-tool", "no-such-package")]);
        assert_eq!(
            reported,
            ["cannot find `no-such-tool`; `cargo xtask setup` or `apt-get install no-such-package` gets it"]
        );
    }
}
