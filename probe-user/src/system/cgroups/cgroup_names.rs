//! Names for the numbers by which the kernel side knows control groups.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::Path,
};

use super::Roots;

/// How deep the hierarchies are walked. Kubernetes needs 4 levels, a Kubernetes in a container 8.
const MAX_DEPTH: usize = 12;

/// How many control groups of one hierarchy are named.
const MAX_CGROUPS: usize = 20_000;

/// The hierarchies in which the kernel side meets control groups: their numbers overlap, for each counts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hierarchy {
    /// Version 2: what `bpf_get_current_cgroup_id` tells.
    Unified,
    /// Where the `blkio` controller of version 1 is: what the bio of a request tells there.
    Blkio,
}

/// The paths of control groups by their ids.
///
/// An id is `kn->id` of the group's directory (include/linux/kernfs.h), which on 64-bit machines is the directory's inode
/// number since Linux 5.5 (`kernfs: convert kernfs_node->id from union kernfs_node_id to u64`), and is not used twice.
#[derive(Debug, Default)]
pub struct Names {
    unified: HashMap<u64, String>,
    blkio: HashMap<u64, String>,
}

impl Names {
    /// Walks both hierarchies; returns whether all there is was seen, within 12 levels and 20,000 groups each.
    ///
    /// Who is gone since the last walk keeps its name, because what it did may be told later, until there are too many.
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

    /// Returns the path of a control group from the root of its hierarchy; `None` if no walk met it.
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

/// Notes every directory; whoever vanishes meanwhile was not there.
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
            // What the directory lists has the inode numbers and types: no group is looked at on its own.
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
