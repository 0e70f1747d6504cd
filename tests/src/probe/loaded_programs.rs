//! BPF objects in the kernel and the processes that hold them, to check what an ended probe leaves behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};

/// Returns the ids of the BPF programs that a process holds open.
pub fn of(pid: u32) -> BTreeSet<u32> {
    held_by(Path::new(&format!("/proc/{pid}/fdinfo")), "prog_id:")
}

/// Returns the ids of the BPF maps that a process holds open.
fn maps_of(pid: u32) -> BTreeSet<u32> {
    held_by(Path::new(&format!("/proc/{pid}/fdinfo")), "map_id:")
}

/// Returns a hash map that a process holds open, by its name.
pub fn hash_map<K: Pod, V: Pod>(pid: u32, name: &str) -> anyhow::Result<HashMap<MapData, K, V>> {
    // `BPF_OBJ_NAME_LEN` of include/uapi/linux/bpf.h, without the terminating zero.
    let cut = &name[..name.len().min(15)];
    for id in maps_of(pid) {
        let map = MapData::from_id(id).with_context(|| format!("cannot open map {id}"))?;
        if map.info()?.name_as_str() == Some(cut) {
            return HashMap::try_from(Map::HashMap(map)).with_context(|| format!("cannot read map {name}"));
        }
    }
    bail!("process {pid} has no map {name}")
}

/// Returns the ids of all programs in the kernel.
pub fn loaded() -> anyhow::Result<BTreeSet<u32>> {
    let ids = aya::programs::loaded_programs().map(|program| Ok(program?.id()));
    ids.collect::<anyhow::Result<_>>().context("cannot list the programs in the kernel")
}

/// The name prefix of systemd's own cgroup programs: `sd_devices`, `sd_fw_ingress`.
const OF_SYSTEMD: &str = "sd_";

/// All BPF objects in the kernel by id, except systemd's own programs: it loads new ones at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub programs: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
}

impl Loaded {
    /// Returns whether all of them also existed before.
    pub fn is_within(&self, before: &Self) -> bool {
        self.programs.is_subset(&before.programs)
            && self.maps.is_subset(&before.maps)
            && self.links.is_subset(&before.links)
    }

    /// Lists the objects of the whole kernel.
    pub fn now() -> anyhow::Result<Self> {
        let maps = aya::maps::loaded_maps().map(|map| Ok(map?.id()));
        let links = aya::programs::loaded_links().map(|link| Ok(link?.id()));
        let programs = aya::programs::loaded_programs().filter_map(|program| match program {
            Ok(program) => {
                let is_of_systemd = program.name_as_str().is_some_and(|name| name.starts_with(OF_SYSTEMD));
                (!is_of_systemd).then_some(Ok(program.id()))
            }
            Err(error) => Some(Err(error.into())),
        });
        Ok(Self {
            programs: programs
                .collect::<anyhow::Result<_>>()
                .context("cannot list the programs in the kernel")?,
            maps: maps.collect::<anyhow::Result<_>>().context("cannot list the maps in the kernel")?,
            links: links.collect::<anyhow::Result<_>>().context("cannot list the links in the kernel")?,
        })
    }
}

/// Returns the ids of programs that no process holds open: attached permanently, or not yet freed.
pub fn orphans() -> anyhow::Result<BTreeSet<u32>> {
    let loaded = loaded()?;
    let processes = fs::read_dir("/proc").context("cannot list processes")?.flatten();
    let held: BTreeSet<u32> =
        processes.flat_map(|process| held_by(&process.path().join("fdinfo"), "prog_id:")).collect();
    Ok(loaded.difference(&held).copied().collect())
}

/// The BPF objects of a process, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub programs: BTreeSet<u32>,
    /// Includes maps that it has closed but its programs still use.
    pub maps: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
}

impl Held {
    pub fn by(pid: u32) -> anyhow::Result<Self> {
        let programs = of(pid);
        let mut maps = maps_of(pid);
        for program in aya::programs::loaded_programs() {
            let program = program.context("cannot list the programs in the kernel")?;
            if programs.contains(&program.id()) {
                maps.extend(
                    program.map_ids().context("cannot list the maps of a program")?.into_iter().flatten(),
                );
            }
        }
        Ok(Self { programs, maps, links: held_by(Path::new(&format!("/proc/{pid}/fdinfo")), "link_id:") })
    }

    /// Returns the objects that still exist in the kernel.
    pub fn left(&self) -> anyhow::Result<Self> {
        let maps = aya::maps::loaded_maps().map(|map| Ok(map?.id()));
        let maps =
            maps.collect::<anyhow::Result<BTreeSet<_>>>().context("cannot list the maps in the kernel")?;
        let links = aya::programs::loaded_links().map(|link| Ok(link?.id()));
        let links =
            links.collect::<anyhow::Result<BTreeSet<_>>>().context("cannot list the links in the kernel")?;
        Ok(Self {
            programs: &self.programs & &loaded()?,
            maps: &self.maps & &maps,
            links: &self.links & &links,
        })
    }
}

/// A process that ends meanwhile holds none.
fn held_by(fdinfo: &Path, field: &str) -> BTreeSet<u32> {
    let files = fs::read_dir(fdinfo).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.filter_map(|text| id_in(&text, field)).collect()
}

fn id_in(fdinfo: &str, field: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_distinguished_from_other_files() {
        let cases = [
            ("pos:\t0\nprog_type:\t5\nprog_jited:\t1\nprog_id:\t37\n", Some(37), "a program"),
            ("pos:\t0\nmap_type:\t1\nmap_id:\t37\n", None, "a map"),
            ("pos:\t0\nflags:\t02\n", None, "a file"),
        ];
        for (fdinfo, expected, why) in cases {
            assert_eq!(id_in(fdinfo, "prog_id:"), expected, "{why}");
        }
    }
}
