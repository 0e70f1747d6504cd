//! Which control group is whose, and where its files are.
//!
//! There are two generations: in version 2 one hierarchy has all controllers, in version 1 each has a hierarchy of its own.
//! Many machines have both.

mod cgroup_names;
mod cgroup_owner;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Component, Path, PathBuf},
};

use procfs::{FromRead, ProcessCGroups, process::MountInfo};

pub use cgroup_names::{Hierarchy, Names};
pub use cgroup_owner::{Owner, owner};

use crate::system::mount_info;

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Version 2.
    pub unified: Option<PathBuf>,
    /// Version 1, by controller: `cpu`, `blkio`.
    pub v1: BTreeMap<String, PathBuf>,
}

/// The control groups that a process is in: paths from the root of each hierarchy, as `/system.slice/etcd.service`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// In version 2. Kernels without a version 2 mounted tell `/`, too.
    pub unified: Option<String>,
    /// In version 1, by controller; systemd's own hierarchy is `name=systemd`.
    pub v1: BTreeMap<String, String>,
}

/// The generation of a hierarchy, by which the names and units of its files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    V1,
    V2,
}

/// One control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// From the root of its hierarchy; `/` is the root itself.
    pub path: String,
    /// Where its files are.
    pub directory: PathBuf,
}

impl Cgroup {
    /// Returns whether it is the root of its hierarchy, which knows no limits in version 2.
    pub fn is_root(&self) -> bool {
        self.path == "/"
    }
}

impl Roots {
    /// Looks where pid 1 has the hierarchies, or, if its root is closed to us, where we have them.
    ///
    /// In a container that shares the host's processes those of pid 1 are complete, and ours may be a part. `proc` is `/proc`.
    pub fn read(proc: &Path) -> Self {
        let host = mount_info::of_host(proc);
        Self::among(&mount_info::read(&host.join("mountinfo")), &host.join("root"))
    }

    /// Picks the hierarchies out of mounts; `root` is the root directory of the process that they are from.
    ///
    /// The first mount of each counts, and only if it shows the whole hierarchy.
    fn among(mounts: &[MountInfo], root: &Path) -> Self {
        let mut found = Self::default();
        for mount in mounts.iter().filter(|mount| mount.root == "/") {
            let at = root.join(mount.mount_point.strip_prefix("/").unwrap_or(&mount.mount_point));
            match &*mount.fs_type {
                "cgroup2" => found.unified = found.unified.or(Some(at)),
                // The controllers are among the options of the file system, `rw,cpu,cpuacct`; none is called like a flag.
                "cgroup" => {
                    for option in mount.super_options.keys() {
                        found.v1.entry(option.clone()).or_insert_with(|| at.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }
}

impl Membership {
    /// Reads which control groups a process is in; `None` if it is gone. `proc` is `/proc`.
    pub fn of_process(pid: u32, proc: &Path) -> Option<Self> {
        let file = File::open(proc.join(pid.to_string()).join("cgroup")).ok()?;
        let mut membership = Self::default();
        for cgroup in ProcessCGroups::from_read(file).ok()?.0 {
            if cgroup.hierarchy == 0 {
                membership.unified = Some(cgroup.pathname);
            } else {
                let each = cgroup.controllers.into_iter();
                membership.v1.extend(each.map(|controller| (controller, cgroup.pathname.clone())));
            }
        }
        Some(membership)
    }

    /// Returns the control group of a controller and its ancestors, the nearest first and the root last.
    ///
    /// `None` if the controller's hierarchy is not mounted, or the path leads out of what we see of it.
    pub fn lineage(&self, roots: &Roots, controller: &str) -> Option<(Version, Vec<Cgroup>)> {
        match (roots.v1.get(controller), self.v1.get(controller)) {
            (Some(root), Some(path)) => Some((Version::V1, lineage(root, path)?)),
            _ => Some((Version::V2, self.unified_lineage(roots)?)),
        }
    }

    /// Returns the control group of version 2 and its ancestors, the nearest first and the root last.
    pub fn unified_lineage(&self, roots: &Roots) -> Option<Vec<Cgroup>> {
        lineage(roots.unified.as_ref()?, self.unified.as_ref()?)
    }

    /// Returns the path that tells most of whose process this is: systemd and Kubernetes name the same groups in all
    /// hierarchies that they use, so the longest one.
    pub fn path(&self) -> Option<&str> {
        let all = self.unified.iter().chain(self.v1.values());
        all.map(String::as_str).max_by_key(|path| path.len())
    }
}

/// Paths with `..` come from processes outside of our cgroup namespace (`man 7 cgroup_namespaces`).
fn lineage(root: &Path, path: &str) -> Option<Vec<Cgroup>> {
    let below = Path::new(path).strip_prefix("/").ok()?;
    if below.components().any(|component| !matches!(component, Component::Normal(_))) {
        return None;
    }
    let each = below
        .ancestors()
        .map(|below| Cgroup { path: format!("/{}", below.display()), directory: root.join(below) });
    Some(each.collect())
}

#[cfg(test)]
mod tests;
