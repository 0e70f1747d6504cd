//! What members run on and within: the devices under their files, which the kernel side watches, and their control groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use probe_ebpf::io::{LAYERS, LayerTotals, Owner};
use tracing::warn;

use crate::system::mount_info::Mount;
use crate::{
    analysis::disk_metric::PerMetric,
    discovery::Member,
    kernel::{Block, monotonic_ns},
    system::{
        cgroups::{Hierarchy, Membership, Names, Roots},
        cpu_starvation::Reading,
        device_number::DeviceNumber,
        devices::{self, Stack},
        io_limits::{self, IoLimit},
    },
};

const PROC: &str = "/proc";
const SYSFS: &str = "/sys";

/// Who did most is told; the rest of a window is left out.
const OWNERS_KEPT: usize = 256;

/// How long a reading of owners is good for others: little of the shortest window.
const ACTIVITY_HOLDS_NS: u64 = 200_000_000;

/// The devices under one directory of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlacement {
    pub stack: Stack,
    /// The kernel side's numbers of the stack's layers, in their order; those for which there was no room are left out.
    pub layers: Vec<u32>,
}

/// What a member runs on and within, in one of its lives.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Under the WAL, and under the backend.
    pub devices: PerMetric<Option<DevicePlacement>>,
    pub mounts: PerMetric<Mount>,
    pub membership: Option<Membership>,
}

/// The host's devices and control groups, as far as members need them.
#[derive(Debug)]
pub struct Host {
    roots: Roots,
    names: Names,
    /// Control groups that no walk met.
    nameless: BTreeSet<u64>,
    /// The kernel side's number of every watched device, and of every layer.
    watched: BTreeMap<u32, u32>,
    layers: BTreeMap<DeviceNumber, u32>,
    /// Who was read to do what last on each set of layers, and when.
    active: BTreeMap<Vec<u32>, (u64, Arc<[Owner]>)>,
}

impl Host {
    pub fn read() -> Self {
        Self {
            roots: Roots::read(Path::new(PROC)),
            names: Names::default(),
            nameless: BTreeSet::new(),
            watched: BTreeMap::new(),
            layers: BTreeMap::new(),
            active: BTreeMap::new(),
        }
    }

    /// Reads what layers did, and who did most on them: once for all members that are there and are asked at once.
    pub fn activity(&mut self, block: &Block, layers: Vec<u32>) -> (Vec<(u32, LayerTotals)>, Arc<[Owner]>) {
        let totals = layers.iter().map(|layer| (*layer, block.layer(*layer))).collect();
        let now_ns = monotonic_ns();
        self.active.retain(|_, (at_ns, _)| *at_ns + ACTIVITY_HOLDS_NS > now_ns);
        let (_, owners) =
            self.active.entry(layers).or_insert_with_key(|layers| (now_ns, most_active(block, layers)));
        (totals, owners.clone())
    }

    /// Looks up what a member runs on, and watches it.
    pub fn surround(&mut self, member: &Member, block: &mut Block) -> Environment {
        let wal = crate::system::mount_info::of(member.id.pid, &member.wal_dir, member.wal_dir_st_dev);
        let data = crate::system::mount_info::of_path(member.id.pid, &member.data_dir)
            .unwrap_or_else(|| wal.clone());
        let mounts = PerMetric { wal_fsync: wal, backend_commit: data };
        let devices = PerMetric::from_fn(|metric| self.place(&mounts[metric], block));
        let membership = Membership::of_process(member.id.pid, Path::new(PROC));
        Environment { devices, mounts, membership }
    }

    fn place(&mut self, mount: &Mount, block: &mut Block) -> Option<DevicePlacement> {
        let stack = devices::under(mount, Path::new(SYSFS), Path::new(PROC))?;
        let numbers: Vec<Option<u32>> =
            stack.layers.iter().map(|layer| self.layer(layer.number, layer.index, &stack, block)).collect();
        let number_of = |index: u32| {
            let position = stack.layers.iter().position(|layer| layer.index == index)?;
            numbers.get(position).copied().flatten()
        };
        let devices = stack.devices().into_iter().map(|watched| (watched.dev, watched.layer));
        // Syncs are told by the number of the file system, which on btrfs is none of a device.
        let anonymous = mount.number.map(|number| (number.kernel(), 0));
        for (dev, index) in devices.chain(anonymous) {
            let Some(layer) = number_of(index) else { continue };
            if self.watched.insert(dev, layer) != Some(layer)
                && let Err(error) = block.watch(dev, layer)
            {
                warn!(%error, "a device is not watched");
            }
        }
        let mut layers: Vec<u32> = Vec::new();
        for number in numbers.into_iter().flatten() {
            if !layers.contains(&number) {
                layers.push(number);
            }
        }
        Some(DevicePlacement { stack, layers })
    }

    /// Returns the kernel side's number of a layer. A partition has its disk's.
    fn layer(&mut self, number: DeviceNumber, index: u32, stack: &Stack, block: &Block) -> Option<u32> {
        let disk = stack.disks.iter().find(|disk| disk.layer == index).map_or(number, |disk| disk.number);
        if let Some(known) = self.layers.get(&disk) {
            return Some(*known);
        }
        let used: BTreeSet<u32> = self.layers.values().copied().collect();
        let Some(free) = (0..LAYERS).find(|layer| !used.contains(layer)) else {
            warn!(device = %disk, "more devices than can be watched");
            return None;
        };
        block.clear_layer(free);
        self.layers.insert(disk, free);
        Some(free)
    }

    /// Stops to watch what no member is on any more.
    pub fn forget(&mut self, used: &BTreeSet<u32>, block: &mut Block) {
        self.layers.retain(|_, layer| used.contains(layer));
        let gone: Vec<u32> =
            self.watched.iter().filter(|(_, layer)| !used.contains(layer)).map(|(dev, _)| *dev).collect();
        for dev in gone {
            self.watched.remove(&dev);
            if let Err(error) = block.unwatch(dev) {
                warn!(%error, "a device is still watched");
            }
        }
    }

    /// Returns the path of the control group that block I/O is charged to.
    pub fn cgroup(&self, id: u64) -> Option<&str> {
        self.names.path(Hierarchy::of_block_io(&self.roots), id)
    }

    /// Looks for control groups if somebody is in one whose name is not known. Called each second, before they are gone.
    pub fn name_cgroups(&mut self, block: &Block) {
        let hierarchy = Hierarchy::of_block_io(&self.roots);
        let unknown = |id: &u64| self.names.path(hierarchy, *id).is_none() && !self.nameless.contains(id);
        let unknown: Vec<u64> = block.cgroups().filter(unknown).collect();
        if unknown.is_empty() {
            return;
        }
        self.names.refresh(&self.roots);
        // One that was gone by then has no name any more.
        self.nameless.retain(|id| block.cgroups().any(|other| other == *id));
        self.nameless.extend(unknown.into_iter().filter(|id| self.names.path(hierarchy, *id).is_none()));
    }

    /// Reads what keeps a process from running.
    pub fn starvation(&self, pid: u32, membership: &Membership) -> Reading {
        Reading::read(pid, Path::new(PROC), membership, &self.roots)
    }

    /// Reads what limits a process's block I/O on a device.
    pub fn io_limits(&self, membership: &Membership, stack: &Stack) -> Vec<IoLimit> {
        io_limits::limits(membership, &self.roots, &stack.limitable())
    }
}

impl Environment {
    /// Returns the kernel side's numbers of all layers.
    pub fn layers(&self) -> Vec<u32> {
        let all: BTreeSet<u32> =
            self.devices.iter().flatten().flat_map(|placed| placed.layers.clone()).collect();
        all.into_iter().collect()
    }
}

/// Returns who did most on layers.
fn most_active(block: &Block, layers: &[u32]) -> Arc<[Owner]> {
    let mut owners: Vec<Owner> = layers.iter().flat_map(|layer| block.owners(*layer)).collect();
    owners.sort_by_key(|owner| {
        std::cmp::Reverse((owner.used_ns >> 33, owner.requests.iter().sum::<u64>() + owner.syncs))
    });
    owners.truncate(OWNERS_KEPT);
    owners.into()
}
