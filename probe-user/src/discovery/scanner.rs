//! Keeps the list of members current, cheaply enough to be asked each second.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    endpoint::Overrides,
    identity::{self, Look, Member},
    layout_matcher,
    process_info::{Finder, ProcessId, Unreadable, What},
};

/// Names that stay marked as shared. Of more than any node has, only those count that somebody has.
const MARKED_AT_MOST: usize = 256;

/// What one look over the machine found.
#[derive(Debug, Default)]
pub struct Scan {
    /// By name.
    pub members: Vec<Member>,
    /// Goes by etcd's name and holds no WAL (yet).
    pub pending: Vec<Pending>,
    /// Goes by etcd's name and could not be examined.
    pub unreadable: Vec<Unreadable>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub id: ProcessId,
    pub comm_matches: bool,
}

/// Finds members, and remembers those found for as long as they live.
#[derive(Debug, Default)]
pub struct Scanner {
    finder: Finder,
    /// The overrides with which `members` were made.
    overrides: Overrides,
    /// With etcd's plain name; a process that is none yet is examined anew each time.
    members: BTreeMap<ProcessId, Member>,
    /// Names that two members had at a time. They stay marked, so that a label does not change when one of them ends.
    shared: HashSet<String>,
}

impl Scanner {
    /// Examines every process that goes by one of the names; suspects are those that the kernel side has met under one.
    pub fn scan(&mut self, overrides: &Overrides, names: &[String], suspects: &[u32]) -> Scan {
        if self.overrides != *overrides {
            self.overrides = overrides.clone();
            self.members.clear();
        }
        let mut scan = Scan::default();
        let looked_for: Vec<String> =
            names.iter().cloned().chain(layout_matcher::embedding().map(str::to_owned)).collect();
        let found = match self.finder.find(&looked_for, suspects) {
            Ok(found) => found,
            Err(error) => {
                let error = error.to_string();
                scan.unreadable.push(Unreadable { pid: 0, what: What::ProcessList, error });
                // Those that are known and alive are still members.
                self.members.keys().copied().filter(|id| id.is_alive()).collect()
            }
        };
        let mut known = std::mem::take(&mut self.members);
        for id in found {
            if let Some(member) = known.remove(&id) {
                self.members.insert(id, member);
                continue;
            }
            match identity::look(id, names, overrides) {
                Ok(Look::Member(member)) => {
                    self.members.insert(id, *member);
                }
                Ok(Look::NoWal) => scan.pending.push(Pending { id, comm_matches: id.comm_is_one_of(names) }),
                Ok(Look::Gone) => {}
                Err(unreadable) => scan.unreadable.push(unreadable),
            }
        }
        scan.members = self.members.values().cloned().collect();
        label(&mut scan.members, &mut self.shared);
        scan
    }
}

/// Makes names unique: by data directory, and by the WAL's inode where even that is the same (two containers).
fn label(members: &mut [Member], shared: &mut HashSet<String>) {
    let counted = |members: &[Member]| {
        members.iter().fold(HashMap::<String, usize>::new(), |mut counts, member| {
            *counts.entry(member.name.clone()).or_default() += 1;
            counts
        })
    };
    shared.extend(counted(members).into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name));
    if shared.len() > MARKED_AT_MOST {
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
