//! Cgroups of processes, and the location of their files.
//!
//! There are two versions: in version 2 one hierarchy has all controllers, in version 1 each controller has
//! its own hierarchy. Many hosts have both.

mod cgroup_names;
mod cgroup_owner;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Component, Path, PathBuf},
};

use procfs::{FromRead, ProcessCGroups, process::MountInfo};

pub use cgroup_names::{CgroupNames, Hierarchy};
pub use cgroup_owner::{CgroupOwner, owner};

use crate::system::mount_info;

/// Mount points of the hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Version 2.
    pub unified: Option<PathBuf>,
    /// Version 1, by controller: `cpu`, `blkio`.
    pub v1: BTreeMap<String, PathBuf>,
}

/// The cgroups that a process is in: paths from the root of each hierarchy, such as
/// `/system.slice/etcd.service`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// In version 2. Kernels also report `/` where version 2 is not mounted.
    pub unified: Option<String>,
    /// In version 1, by controller; systemd's own hierarchy is `name=systemd`.
    pub v1: BTreeMap<String, String>,
}

/// The cgroup version of a hierarchy, which determines the names and units of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CgroupVersion {
    V1,
    V2,
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// From the root of its hierarchy; `/` is the root itself.
    pub path: String,
    /// The directory of its files.
    pub directory: PathBuf,
}

impl Cgroup {
    /// Returns whether it is the root of its hierarchy, which has no limits in version 2.
    pub fn is_root(&self) -> bool {
        self.path == "/"
    }
}

impl Roots {
    /// Reads the mount points of pid 1, or, if access to its root is denied, our own.
    ///
    /// In a container that shares the host's pid namespace, pid 1 has the complete hierarchies, and ours may
    /// be a part of them. `proc` is `/proc`.
    pub fn read(proc: &Path) -> Self {
        let host = mount_info::host_proc_dir(proc);
        Self::among(&mount_info::read(&host.join("mountinfo")), &host.join("root"))
    }

    /// Selects the hierarchies among mounts; `root` is the root directory of the process that has these
    /// mounts.
    ///
    /// Of each hierarchy the first mount is used, and only mounts of a whole hierarchy count.
    fn among(mounts: &[MountInfo], root: &Path) -> Self {
        let mut found = Self::default();
        for mount in mounts.iter().filter(|mount| mount.root == "/") {
            let at = root.join(mount.mount_point.strip_prefix("/").unwrap_or(&mount.mount_point));
            match &*mount.fs_type {
                "cgroup2" => found.unified = found.unified.or(Some(at)),
                // The controllers are among the options of the file system, `rw,cpu,cpuacct`; no controller
                // has the name of a flag.
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
    /// Reads the cgroups of a process; `None` if it has ended. `proc` is `/proc`.
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

    /// Returns the cgroup of a controller and its ancestors, the nearest first and the root last.
    ///
    /// `None` if the controller's hierarchy is not mounted, or the path leads out of the part that is visible
    /// to us.
    pub fn lineage(&self, roots: &Roots, controller: &str) -> Option<(CgroupVersion, Vec<Cgroup>)> {
        match (roots.v1.get(controller), self.v1.get(controller)) {
            (Some(root), Some(path)) => Some((CgroupVersion::V1, lineage(root, path)?)),
            _ => Some((CgroupVersion::V2, self.unified_lineage(roots)?)),
        }
    }

    /// Returns the cgroup of version 2 and its ancestors, the nearest first and the root last.
    pub fn unified_lineage(&self, roots: &Roots) -> Option<Vec<Cgroup>> {
        lineage(roots.unified.as_ref()?, self.unified.as_ref()?)
    }

    /// Returns the path that identifies the owner of the process best. systemd and Kubernetes use the same
    /// names in all hierarchies that they manage, so it is the longest path.
    pub fn path(&self) -> Option<&str> {
        let all = self.unified.iter().chain(self.v1.values());
        all.map(String::as_str).max_by_key(|path| path.len())
    }
}

/// Returns a cgroup and its ancestors. Paths with `..` belong to processes outside of our cgroup namespace
/// (`man 7 cgroup_namespaces`).
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
