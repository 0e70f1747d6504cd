//! Limits of cgroups on the block I/O of a process, and the I/O that passed them.
//!
//! A write that waits on such a limit is in no device queue: it is throttled before it reaches the block
//! layer's tracepoints for requests.

use std::{fs, path::Path};

use serde::{Serialize, Serializer};

use crate::system::{
    cgroups::{Cgroup, CgroupVersion, Membership, Roots},
    device_number::DeviceNumber,
};

/// The files of version 1, one per kind.
const V1_FILES: [(&str, LimitKind); 4] = [
    ("blkio.throttle.read_bps_device", LimitKind::ReadBytes),
    ("blkio.throttle.write_bps_device", LimitKind::WriteBytes),
    ("blkio.throttle.read_iops_device", LimitKind::Reads),
    ("blkio.throttle.write_iops_device", LimitKind::Writes),
];

/// One limit of one cgroup on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IoLimit {
    /// The cgroup with this limit, the process's own or an ancestor; the path from the root of the hierarchy.
    pub cgroup: String,
    pub device: DeviceNumber,
    pub kind: LimitKind,
    /// Bytes or operations per second.
    pub value: u64,
}

/// The limited quantity, each per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitKind {
    ReadBytes,
    WriteBytes,
    Reads,
    Writes,
}

impl LimitKind {
    /// Returns its name in `io.max`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::Reads => "riops",
            Self::Writes => "wiops",
        }
    }

    /// Returns the unit that follows the value in a sentence.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::ReadBytes => "bytes read per second",
            Self::WriteBytes => "bytes written per second",
            Self::Reads => "reads per second",
            Self::Writes => "writes per second",
        }
    }

    fn by_name(name: &str) -> Option<Self> {
        [Self::ReadBytes, Self::WriteBytes, Self::Reads, Self::Writes]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

impl Serialize for LimitKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Returns the limits that apply to a process on some devices, the nearest cgroup first.
///
/// In version 2 the limits of all ancestors apply too. In version 1 each cgroup is independent of its
/// ancestors (`throtl_pd_init` of block/blk-throttle.c sets a parent only in version 2).
pub fn limits(membership: &Membership, roots: &Roots, devices: &[DeviceNumber]) -> Vec<IoLimit> {
    let Some((version, lineage)) = membership.lineage(roots, "blkio") else { return Vec::new() };
    let mut found = Vec::new();
    match version {
        CgroupVersion::V1 => {
            for cgroup in lineage.iter().take(1) {
                for (file, kind) in V1_FILES {
                    let set = text(cgroup, file).map(|text| parse_v1(&text)).unwrap_or_default();
                    found.extend(set.into_iter().map(|(device, value)| limit(cgroup, device, kind, value)));
                }
            }
        }
        CgroupVersion::V2 => {
            for cgroup in &lineage {
                let set = text(cgroup, "io.max").map(|text| parse_v2(&text)).unwrap_or_default();
                found.extend(set.into_iter().map(|(device, kind, value)| limit(cgroup, device, kind, value)));
            }
        }
    }
    found.retain(|limit| devices.contains(&limit.device));
    found
}

/// Returns how many writes of a process's cgroup one device has received since the cgroup was created.
///
/// Version 2 includes descendant cgroups. `None` if the kernel does not count writes, or the cgroup has not
/// written to this device.
pub fn served(membership: &Membership, roots: &Roots, device: DeviceNumber) -> Option<u64> {
    let (version, lineage) = membership.lineage(roots, "blkio")?;
    let own = lineage.first()?;
    match version {
        CgroupVersion::V1 => served_v1(&text(own, "blkio.throttle.io_serviced")?, device),
        CgroupVersion::V2 => served_v2(&text(own, "io.stat")?, device),
    }
}

fn limit(cgroup: &Cgroup, device: DeviceNumber, kind: LimitKind, value: u64) -> IoLimit {
    IoLimit { cgroup: cgroup.path.clone(), device, kind, value }
}

fn text(cgroup: &Cgroup, file: &str) -> Option<String> {
    fs::read_to_string(Path::new(&cgroup.directory).join(file)).ok()
}

/// Parses lines of `8:16 1048576`.
fn parse_v1(text: &str) -> Vec<(DeviceNumber, u64)> {
    let pair = |line: &str| {
        let (device, value) = line.split_once(' ')?;
        Some((device.parse().ok()?, value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Parses lines of `8:16 rbps=2097152 wbps=max riops=max wiops=120`.
fn parse_v2(text: &str) -> Vec<(DeviceNumber, LimitKind, u64)> {
    let mut found = Vec::new();
    for (device, values) in device_lines(text) {
        for (name, value) in values {
            if let (Some(kind), Ok(value)) = (LimitKind::by_name(name), value.parse()) {
                found.push((device, kind, value));
            }
        }
    }
    found
}

/// Parses lines of `8:16 Write 58142`, and of other operations.
fn served_v1(text: &str, device: DeviceNumber) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next()?.parse().is_ok_and(|number: DeviceNumber| number == device);
        (is_it && words.next()? == "Write").then(|| words.next()?.parse().ok())?
    })
}

/// Parses lines of `8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0`.
fn served_v2(text: &str, device: DeviceNumber) -> Option<u64> {
    let (_, mut values) = device_lines(text).find(|(number, _)| *number == device)?;
    values.find(|(name, _)| *name == "wios")?.1.parse().ok()
}

/// Splits lines of a device and `name=value` pairs. A device without I/O may have a line without pairs.
fn device_lines(text: &str) -> impl Iterator<Item = (DeviceNumber, impl Iterator<Item = (&str, &str)>)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let device = words.next()?.parse().ok()?;
        Some((device, words.filter_map(|word| word.split_once('='))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::fixture::Tree;

    const DISK: DeviceNumber = DeviceNumber { major: 8, minor: 16 };

    fn summary(limits: &[IoLimit]) -> Vec<String> {
        let line = |limit: &IoLimit| {
            format!("{} {} {}={}", limit.cgroup, limit.device, limit.kind.as_str(), limit.value)
        };
        limits.iter().map(line).collect()
    }

    #[test]
    fn limits_of_ancestors_apply_in_version_2() {
        let tree = Tree::with(&[
            (
                "pod/etcd/io.max",
                "8:16 rbps=max wbps=1048576 riops=max wiops=max\n8:32 rbps=1 wbps=1 riops=1 wiops=1\n",
            ),
            ("pod/io.max", "8:16 rbps=max wbps=max riops=max wiops=120\n"),
            ("pod/etcd/io.stat", "7:0 \n8:16 rbytes=4096 wbytes=8192 rios=1 wios=353 dbytes=0 dios=0\n"),
        ]);
        let roots = Roots { unified: Some(tree.path().into()), ..Roots::default() };
        let membership = Membership { unified: Some("/pod/etcd".to_owned()), ..Membership::default() };
        let found = limits(&membership, &roots, &[DISK]);
        assert_eq!(summary(&found), ["/pod/etcd 8:16 wbps=1048576", "/pod 8:16 wiops=120"]);
        assert_eq!(limits(&membership, &roots, &[]), [], "no device");
        assert_eq!(served(&membership, &roots, DISK), Some(353));
        assert_eq!(served(&membership, &roots, DeviceNumber { major: 7, minor: 0 }), None, "an empty line");
        assert_eq!(
            serde_json::to_value(&found[1]).unwrap(),
            serde_json::json!({"cgroup": "/pod", "device": "8:16", "kind": "wiops", "value": 120})
        );
    }

    #[test]
    fn only_its_own_limits_apply_in_version_1() {
        let tree = Tree::with(&[
            ("pod/etcd/blkio.throttle.write_bps_device", "8:16 1048576\n8:32 5\n"),
            ("pod/etcd/blkio.throttle.write_iops_device", "8:16 100\n"),
            ("pod/etcd/blkio.throttle.read_bps_device", ""),
            ("pod/blkio.throttle.write_iops_device", "8:16 1\n"),
            (
                "pod/etcd/blkio.throttle.io_serviced",
                "8:16 Read 5\n8:16 Write 58142\n8:16 Total 58147\nTotal 58147\n",
            ),
            ("blkio.throttle.write_iops_device", "8:16 3\n"),
        ]);
        let v1 = |path: &str| [("blkio".to_owned(), path.to_owned())].into();
        let roots = Roots { v1: [("blkio".to_owned(), tree.path().into())].into(), ..Roots::default() };
        let membership = Membership { v1: v1("/pod/etcd"), ..Membership::default() };
        let found = summary(&limits(&membership, &roots, &[DISK]));
        assert_eq!(found, ["/pod/etcd 8:16 wbps=1048576", "/pod/etcd 8:16 wiops=100"]);
        assert_eq!(served(&membership, &roots, DISK), Some(58142));
        assert_eq!(served(&membership, &roots, DeviceNumber { major: 8, minor: 32 }), None);

        let at_root = Membership { v1: v1("/"), ..Membership::default() };
        assert_eq!(
            summary(&limits(&at_root, &roots, &[DISK])),
            ["/ 8:16 wiops=3"],
            "the root has limits there"
        );
    }

    #[test]
    fn there_are_no_limits_without_a_mounted_hierarchy() {
        let (membership, roots) = (Membership::default(), Roots::default());
        assert_eq!(limits(&membership, &roots, &[DISK]), []);
        assert_eq!(served(&membership, &roots, DISK), None);
    }
}
