//! The kernel memory that the probe uses.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::Context;
use aya::maps::MapInfo;
use aya::programs::loaded_programs;

/// The kernel memory of the maps and programs that a process has open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelMemory {
    pub maps: Vec<MapMemory>,
    pub program_bytes: u64,
}

/// One map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapMemory {
    /// `enum bpf_map_type` of `include/uapi/linux/bpf.h`.
    pub kind: u32,
    pub key_bytes: u64,
    pub value_bytes: u64,
    pub bytes: u64,
}

/// `BPF_MAP_TYPE_HASH`
const HASH: u32 = 1;

/// The `BPF_MAP_TYPE_*` with a copy of each value per CPU.
const PER_CPU: [u32; 4] = [5, 6, 10, 21];

impl KernelMemory {
    /// Queries each program that the process has open, each map that one of them uses, and each map that is
    /// open.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let directory = format!("/proc/{pid}/fdinfo");
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
        // A file that is closed meanwhile uses no memory.
        let texts: Vec<_> =
            entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        let programs: BTreeMap<u64, u64> = texts
            .iter()
            .filter_map(|text| Some((field(text, "prog_id")?, field(text, "memlock")?)))
            .collect();
        let mut maps: BTreeMap<u64, MapMemory> = texts.iter().filter_map(|text| map(text)).collect();
        for id in used(&programs)? {
            if let Entry::Vacant(unseen) = maps.entry(id.into()) {
                let map_file =
                    MapInfo::from_id(id).and_then(|info| info.fd()).context("cannot open a map")?;
                let text = format!("/proc/self/fdinfo/{}", map_file.as_fd().as_raw_fd());
                let text = fs::read_to_string(text).context("cannot read of a map")?;
                unseen.insert(map(&text).context("cannot parse the kernel's information about a map")?.1);
            }
        }
        Ok(Self { maps: maps.into_values().collect(), program_bytes: programs.values().sum() })
    }

    pub fn map_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.bytes).sum()
    }

    /// Returns the number of maps with a copy of their values per CPU.
    pub fn per_cpu(&self) -> usize {
        self.maps.iter().filter(|map| PER_CPU.contains(&map.kind)).count()
    }

    /// Returns the memory for one more CPU: a preallocated hash keeps one spare element for each
    /// (`prealloc_init` in `kernel/bpf/hashtab.c`: a header of 48 bytes, key and value) and the pointer to
    /// it.
    pub fn bytes_per_cpu(&self) -> u64 {
        let element =
            |map: &MapMemory| 48 + map.key_bytes.next_multiple_of(8) + map.value_bytes.next_multiple_of(8);
        self.maps.iter().filter(|map| map.kind == HASH).map(|map| element(map) + 8).sum()
    }
}

fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

/// Parses the kernel's information about a map, and its id.
fn map(fdinfo: &str) -> Option<(u64, MapMemory)> {
    let memory = MapMemory {
        kind: field(fdinfo, "map_type")?.try_into().ok()?,
        key_bytes: field(fdinfo, "key_size")?,
        value_bytes: field(fdinfo, "value_size")?,
        bytes: field(fdinfo, "memlock")?,
    };
    Some((field(fdinfo, "map_id")?, memory))
}

/// Returns the maps that these programs use.
fn used(programs: &BTreeMap<u64, u64>) -> anyhow::Result<BTreeSet<u32>> {
    let mut maps = BTreeSet::new();
    for program in loaded_programs() {
        let program = program.context("cannot list the programs of the kernel")?;
        if programs.contains_key(&program.id().into()) {
            maps.extend(program.map_ids().context("cannot list the maps of a program")?.unwrap_or_default());
        }
    }
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_map_information_is_parsed() {
        let text = "pos:\t0\nmap_type:\t1\nkey_size:\t4\nvalue_size:\t8\nmax_entries:\t16\nmemlock:\t2048\nmap_id:\t7\n";
        let expected = MapMemory { kind: HASH, key_bytes: 4, value_bytes: 8, bytes: 2048 };
        assert_eq!(map(text), Some((7, expected)));
        assert_eq!(map("pos:\t0\nprog_type:\t5\nmemlock:\t4096\nprog_id:\t9\n"), None, "a program");
        let memory = KernelMemory { maps: vec![expected], program_bytes: 0 };
        assert_eq!((memory.map_bytes(), memory.per_cpu(), memory.bytes_per_cpu()), (2048, 0, 48 + 8 + 8 + 8));
    }
}
