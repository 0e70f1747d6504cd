//! Keeps the list of members current, at a cost that permits a scan each second.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    endpoint::Overrides,
    identity::{self, Inspection, Member},
    layout_matcher,
    process_info::{Finder, ProcessId, Unreadable, UnreadableItem},
};

/// Names that stay marked as shared. Above this number, which is more than any node has, only names of
/// current members stay.
const SHARED_NAMES_MAX: usize = 256;

/// Result of one scan of the host.
#[derive(Debug, Default)]
pub struct Scan {
    /// By name.
    pub members: Vec<Member>,
    /// Processes with etcd's name that hold no WAL (yet).
    pub pending: Vec<Pending>,
    /// Processes with etcd's name that could not be examined.
    pub unreadable: Vec<Unreadable>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub id: ProcessId,
    pub comm_matches: bool,
}

/// Finds members, and keeps each until its process ends.
#[derive(Debug, Default)]
pub struct Scanner {
    finder: Finder,
    /// The overrides that `members` were created with.
    overrides: Overrides,
    /// Members under etcd's own `--name`. A process that is not a member yet is examined again in each scan.
    members: BTreeMap<ProcessId, Member>,
    /// Names that two members had at the same time. They stay marked, so that a label does not change when
    /// one of the members ends.
    shared: HashSet<String>,
}

impl Scanner {
    /// Examines every process that has one of the names. `suspects` are the pids that the kernel programs
    /// found under one of them.
    pub fn scan(&mut self, overrides: &Overrides, names: &[String], suspects: &[u32]) -> Scan {
        if self.overrides != *overrides {
            self.overrides = overrides.clone();
            self.members.clear();
        }
        let mut scan = Scan::default();
        let searched_names: Vec<String> =
            names.iter().cloned().chain(layout_matcher::embedding_comms().map(str::to_owned)).collect();
        let found = match self.finder.find(&searched_names, suspects) {
            Ok(found) => found,
            Err(error) => {
                let error = error.to_string();
                scan.unreadable.push(Unreadable { pid: 0, what: UnreadableItem::ProcessList, error });
                // Known processes that still run remain members.
                self.members.keys().copied().filter(|id| id.is_alive()).collect()
            }
        };
        let mut known = std::mem::take(&mut self.members);
        for id in found {
            if let Some(member) = known.remove(&id) {
                self.members.insert(id, member);
                continue;
            }
            match identity::inspect(id, names, overrides) {
                Ok(Inspection::Member(member)) => {
                    self.members.insert(id, *member);
                }
                Ok(Inspection::NoWal) => {
                    scan.pending.push(Pending { id, comm_matches: id.comm_is_one_of(names) });
                }
                Ok(Inspection::Gone) => {}
                Err(unreadable) => scan.unreadable.push(unreadable),
            }
        }
        scan.members = self.members.values().cloned().collect();
        label(&mut scan.members, &mut self.shared);
        scan
    }
}

/// Makes names unique: appends the data directory, and the inode of the WAL directory if the data directory
/// is the same too (two containers).
fn label(members: &mut [Member], shared: &mut HashSet<String>) {
    let counted = |members: &[Member]| {
        members.iter().fold(HashMap::<String, usize>::new(), |mut counts, member| {
            *counts.entry(member.name.clone()).or_default() += 1;
            counts
        })
    };
    shared.extend(counted(members).into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name));
    if shared.len() > SHARED_NAMES_MAX {
        shared.retain(|name| members.iter().any(|member| member.settings.name == *name));
    }
    for member in members.iter_mut().filter(|member| shared.contains(&member.settings.name)) {
        member.name = format!("{}@{}", member.settings.name, member.data_dir.display());
    }
    let counts = counted(members);
    for member in members.iter_mut().filter(|member| counts[&member.name] > 1) {
        member.name = format!("{}#{}", member.name, member.wal_dir_inode);
    }
    members.sort_by(|a, b| a.name.cmp(&b.name));
}

#[cfg(test)]
mod tests;
