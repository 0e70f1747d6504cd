//! The environment of members: the devices under their files, which the kernel side watches, and their
//! cgroups.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use probe_ebpf::io::{LAYERS, LayerTotals, Owner};
use tracing::warn;

use crate::{
    analysis::disk_metric::PerMetric,
    discovery::Member,
    kernel::{BlockIo, monotonic_ns},
    system::{
        cgroups::{CgroupNames, Hierarchy, Membership, Roots},
        cpu_starvation::Reading,
        device_number::DeviceNumber,
        devices::{self, DeviceStack},
        io_limits::{self, IoLimit},
        mount_info::{self, Mount},
    },
};

const PROC: &str = "/proc";
const SYSFS: &str = "/sys";

/// Only the most active I/O owners are kept.
const OWNERS_MAX: usize = 256;

/// How long a reading of owners is shared between members: short compared with the shortest window.
const ACTIVITY_VALID_NS: u64 = 200_000_000;

/// The devices under one directory of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlacement {
    pub stack: DeviceStack,
    /// The kernel side's layer numbers of the stack's layers, in the same order, without layers for which no
    /// number was free.
    pub layers: Vec<u32>,
}

/// The environment of one incarnation of a member.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Under the WAL, and under the backend.
    pub devices: PerMetric<Option<DevicePlacement>>,
    pub mounts: PerMetric<Mount>,
    pub membership: Option<Membership>,
}

/// The host's devices and cgroups that members use.
#[derive(Debug)]
pub struct HostEnvironment {
    roots: Roots,
    names: CgroupNames,
    /// Cgroups that no walk has found.
    nameless: BTreeSet<u64>,
    /// The kernel side's layer number of every watched device, and of every layer.
    watched: BTreeMap<u32, u32>,
    layers: BTreeMap<DeviceNumber, u32>,
    /// The time and the result of the last reading of owners, by set of layers.
    active: BTreeMap<Vec<u32>, (u64, Arc<[Owner]>)>,
}

impl HostEnvironment {
    pub fn read() -> Self {
        Self {
            roots: Roots::read(Path::new(PROC)),
            names: CgroupNames::default(),
            nameless: BTreeSet::new(),
            watched: BTreeMap::new(),
            layers: BTreeMap::new(),
            active: BTreeMap::new(),
        }
    }

    /// Reads the totals of layers and their most active owners; members that are scraped at the same time
    /// share one reading of the owners.
    pub fn activity(&mut self, block: &BlockIo, layers: Vec<u32>) -> (Vec<(u32, LayerTotals)>, Arc<[Owner]>) {
        let totals = layers.iter().map(|layer| (*layer, block.layer(*layer))).collect();
        let now_ns = monotonic_ns();
        self.active.retain(|_, (at_ns, _)| *at_ns + ACTIVITY_VALID_NS > now_ns);
        let (_, owners) =
            self.active.entry(layers).or_insert_with_key(|layers| (now_ns, most_active(block, layers)));
        (totals, owners.clone())
    }

    /// Resolves a member's devices and cgroup, and watches the devices.
    pub fn resolve(&mut self, member: &Member, block: &mut BlockIo) -> Environment {
        let wal = mount_info::of(member.id.pid, &member.wal_dir, member.wal_dir_st_dev);
        let data = mount_info::of_path(member.id.pid, &member.data_dir).unwrap_or_else(|| wal.clone());
        let mounts = PerMetric { wal_fsync: wal, backend_commit: data };
        let devices = PerMetric::from_fn(|metric| self.resolve_devices(&mounts[metric], block));
        let membership = Membership::of_process(member.id.pid, Path::new(PROC));
        Environment { devices, mounts, membership }
    }

    fn resolve_devices(&mut self, mount: &Mount, block: &mut BlockIo) -> Option<DevicePlacement> {
        let stack = devices::under(mount, Path::new(SYSFS), Path::new(PROC))?;
        let numbers: Vec<Option<u32>> =
            stack.layers.iter().map(|layer| self.layer(layer.number, layer.index, &stack, block)).collect();
        let number_of = |index: u32| {
            let index = stack.layers.iter().position(|layer| layer.index == index)?;
            numbers.get(index).copied().flatten()
        };
        let devices = stack.devices().into_iter().map(|watched| (watched.dev, watched.layer));
        // Syncs carry the device number of the file system, which on btrfs is not that of a device.
        let anonymous = mount.number.map(|number| (number.kernel(), 0));
        for (dev, index) in devices.chain(anonymous) {
            let Some(layer) = number_of(index) else { continue };
            if self.watched.insert(dev, layer) != Some(layer)
                && let Err(error) = block.watch(dev, layer)
            {
                warn!(%error, "cannot watch a device");
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

    /// Returns the kernel side's number of a layer. A partition has the number of its disk.
    fn layer(
        &mut self,
        number: DeviceNumber,
        index: u32,
        stack: &DeviceStack,
        block: &BlockIo,
    ) -> Option<u32> {
        let disk = stack.disks.iter().find(|disk| disk.layer == index).map_or(number, |disk| disk.number);
        if let Some(known) = self.layers.get(&disk) {
            return Some(*known);
        }
        let used: BTreeSet<u32> = self.layers.values().copied().collect();
        let Some(free) = (0..LAYERS).find(|layer| !used.contains(layer)) else {
            warn!(device = %disk, "cannot watch a device: all {LAYERS} layers are in use");
            return None;
        };
        block.clear_layer(free);
        self.layers.insert(disk, free);
        Some(free)
    }

    /// Stops watching devices that no member uses any more.
    pub fn unwatch_unused(&mut self, used: &BTreeSet<u32>, block: &mut BlockIo) {
        self.layers.retain(|_, layer| used.contains(layer));
        let unused: Vec<u32> =
            self.watched.iter().filter(|(_, layer)| !used.contains(layer)).map(|(dev, _)| *dev).collect();
        for dev in unused {
            self.watched.remove(&dev);
            if let Err(error) = block.unwatch(dev) {
                warn!(%error, "cannot stop watching a device");
            }
        }
    }

    /// Returns the path of a cgroup that block I/O is charged to.
    pub fn cgroup(&self, id: u64) -> Option<&str> {
        self.names.path(Hierarchy::of_block_io(&self.roots), id)
    }

    /// Walks the cgroups if block I/O is charged to one whose name is unknown. Called each second, because a
    /// cgroup may be short-lived.
    pub fn name_cgroups(&mut self, block: &BlockIo) {
        let hierarchy = Hierarchy::of_block_io(&self.roots);
        let unknown = |id: &u64| self.names.path(hierarchy, *id).is_none() && !self.nameless.contains(id);
        let unknown: Vec<u64> = block.cgroups().filter(unknown).collect();
        if unknown.is_empty() {
            return;
        }
        self.names.refresh(&self.roots);
        // A cgroup that was removed before the walk has no name any more.
        self.nameless.retain(|id| block.cgroups().any(|other| other == *id));
        self.nameless.extend(unknown.into_iter().filter(|id| self.names.path(hierarchy, *id).is_none()));
    }

    /// Reads how long a process is kept from running, and why.
    pub fn starvation(&self, pid: u32, membership: &Membership) -> Reading {
        Reading::read(pid, Path::new(PROC), membership, &self.roots)
    }

    /// Reads the limits on a process's block I/O on a device.
    pub fn io_limits(&self, membership: &Membership, stack: &DeviceStack) -> Vec<IoLimit> {
        io_limits::limits(membership, &self.roots, &stack.limitable())
    }
}

impl Environment {
    /// Returns the kernel side's layer numbers of all devices.
    pub fn layers(&self) -> Vec<u32> {
        let all: BTreeSet<u32> =
            self.devices.iter().flatten().flat_map(|placement| placement.layers.clone()).collect();
        all.into_iter().collect()
    }
}

/// Returns the most active I/O owners of layers: recent ones first, then by requests and syncs.
fn most_active(block: &BlockIo, layers: &[u32]) -> Arc<[Owner]> {
    let mut owners: Vec<Owner> = layers.iter().flat_map(|layer| block.owners(*layer)).collect();
    owners.sort_by_key(|owner| {
        std::cmp::Reverse((owner.used_ns >> 33, owner.requests.iter().sum::<u64>() + owner.syncs))
    });
    owners.truncate(OWNERS_MAX);
    owners.into()
}
