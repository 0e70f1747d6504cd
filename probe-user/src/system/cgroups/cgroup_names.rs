//! Names of cgroups by the ids that the kernel programs record.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::Path,
};

use super::Roots;

/// Depth to which the hierarchies are walked. Kubernetes uses 4 levels, a Kubernetes in a container 8.
const MAX_DEPTH: usize = 12;

/// Maximum number of named cgroups of one hierarchy.
const MAX_CGROUPS: usize = 20_000;

/// The hierarchies whose cgroup ids the kernel programs record. Each hierarchy numbers its cgroups
/// independently, so the ids overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hierarchy {
    /// Version 2: the id that `bpf_get_current_cgroup_id` returns.
    Unified,
    /// The hierarchy of the `blkio` controller of version 1: the id in the bio of a request there.
    Blkio,
}

/// The paths of cgroups by their ids.
///
/// An id is `kn->id` of the cgroup's directory (include/linux/kernfs.h). Since Linux 5.5 (`kernfs: convert
/// kernfs_node->id from union kernfs_node_id to u64`) this is the directory's inode number on 64-bit
/// machines, and it is not reused.
#[derive(Debug, Default)]
pub struct CgroupNames {
    unified: HashMap<u64, String>,
    blkio: HashMap<u64, String>,
}

impl CgroupNames {
    /// Walks both hierarchies; returns whether the walk was complete, within 12 levels and 20,000 cgroups
    /// each.
    ///
    /// A cgroup that was removed since the last walk keeps its name, because its I/O may be reported later,
    /// until there are too many names.
    pub fn refresh(&mut self, roots: &Roots) -> bool {
        let walks = [(&mut self.unified, roots.unified.as_deref()), (&mut self.blkio, blkio(roots))];
        let mut complete = true;
        for (names, root) in walks {
            if names.len() > MAX_CGROUPS {
                names.clear();
            }
            complete &= root.is_none_or(|root| walk(root, names));
        }
        complete
    }

    /// Returns the path of a cgroup from the root of its hierarchy; `None` if no walk found it.
    pub fn path(&self, hierarchy: Hierarchy, id: u64) -> Option<&str> {
        let names = match hierarchy {
            Hierarchy::Unified => &self.unified,
            Hierarchy::Blkio => &self.blkio,
        };
        names.get(&id).map(String::as_str)
    }
}

impl Hierarchy {
    /// Returns the hierarchy of the controller of block I/O.
    pub fn of_block_io(roots: &Roots) -> Self {
        if blkio(roots).is_some() { Self::Blkio } else { Self::Unified }
    }
}

fn blkio(roots: &Roots) -> Option<&Path> {
    roots.v1.get("blkio").map(|root| &**root)
}

/// Records every directory; one that is removed during the walk counts as absent.
fn walk(root: &Path, names: &mut HashMap<u64, String>) -> bool {
    let Ok(metadata) = fs::metadata(root) else { return false };
    names.insert(metadata.ino(), "/".to_owned());
    let mut complete = true;
    let mut seen = 1;
    let mut level = vec![String::new()];
    for _ in 0..MAX_DEPTH {
        let mut below = Vec::new();
        for path in &level {
            let Ok(entries) = fs::read_dir(root.join(path.trim_start_matches('/'))) else { continue };
            // The directory entries contain inode numbers and types, so no stat(2) per cgroup is needed.
            let groups = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            for entry in groups {
                if seen == MAX_CGROUPS {
                    return false;
                }
                seen += 1;
                let path = format!("{path}/{}", entry.file_name().to_string_lossy());
                names.insert(entry.ino(), path.clone());
                below.push(path);
            }
        }
        complete = below.is_empty();
        level = below;
    }
    complete
}
