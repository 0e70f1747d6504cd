//! The walk from a mount down to the disks, through sysfs.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use procfs::process::MountInfo;
use rustix::fs::{major, minor};

use super::{DeviceStack, Disk, Layer, LayerKind, WatchedDevice};
use crate::system::device_number::DeviceNumber;
use crate::system::mount_info::{self, Mount};

/// Maximum depth of the walk, files behind loop devices included.
const MAX_DEPTH: u32 = 8;

/// Suffix that the kernel appends to the path of a deleted file (`d_path` of `fs/d_path.c`).
const DELETED: &str = " (deleted)";

pub(super) struct SysfsWalk<'a> {
    sysfs: &'a Path,
    /// The host's root directory and mounts, as pid 1 has them.
    root: PathBuf,
    mounts: Vec<MountInfo>,
    layers: Vec<Layer>,
    disks: Vec<Disk>,
    watched: Vec<WatchedDevice>,
    /// The index of each whole device that was visited, by name.
    met: HashMap<String, u32>,
    cut_short: bool,
}

/// A device in sysfs, by the name of its directory.
struct SysfsDevice {
    directory: PathBuf,
    name: String,
    number: DeviceNumber,
}

impl SysfsDevice {
    fn at(directory: &Path) -> Option<Self> {
        let directory = directory.canonicalize().ok()?;
        let name = directory.file_name()?.to_str()?.to_owned();
        let number = fs::read_to_string(directory.join("dev")).ok()?.parse().ok()?;
        Some(Self { directory, name, number })
    }

    fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.directory.join(path)).ok()?;
        Some(text.trim_end_matches('\n').to_owned()).filter(|text| !text.is_empty())
    }

    /// Returns the whole device, if this one is a partition.
    fn whole(&self) -> Option<Self> {
        let is_partition = self.directory.join("partition").exists();
        is_partition.then(|| Self::at(self.directory.parent()?)).flatten()
    }

    fn kind(&self) -> LayerKind {
        if self.directory.join("dm").is_dir() {
            // The prefixes come from lvm2 (lib/activate/dev_manager.c, UUID_PREFIX) and cryptsetup
            // (lib/utils_dm.h, DM_UUID_PREFIX).
            let uuid = self.text("dm/uuid").unwrap_or_default();
            match () {
                () if uuid.starts_with("LVM-") => LayerKind::DmLvm,
                () if uuid.starts_with("CRYPT-") => LayerKind::DmCrypt,
                () => LayerKind::Dm,
            }
        } else if self.directory.join("md").is_dir() {
            LayerKind::Md
        } else if self.directory.join("loop").is_dir() {
            LayerKind::Loop
        } else {
            LayerKind::Disk
        }
    }

    /// Returns the entries of a directory of the device, sorted.
    fn entries(&self, path: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.join(path)).into_iter().flatten().flatten();
        let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        entries.sort_unstable();
        entries
    }
}

impl<'a> SysfsWalk<'a> {
    pub(super) fn new(sysfs: &'a Path, proc: &Path) -> Self {
        let host = mount_info::host_proc_dir(proc);
        Self {
            sysfs,
            root: host.join("root"),
            mounts: mount_info::read(&host.join("mountinfo")),
            layers: Vec::new(),
            disks: Vec::new(),
            watched: Vec::new(),
            met: HashMap::new(),
            cut_short: false,
        }
    }

    /// Walks down from a mount, level by level, so that devices nearer to the file system come first.
    pub(super) fn from(mut self, mount: &Mount) -> Option<DeviceStack> {
        let mut level = self.of_mount(mount, MAX_DEPTH);
        for _ in 0..MAX_DEPTH {
            let mut below = Vec::new();
            for device in level {
                below.extend(self.visit(&device));
            }
            level = below;
        }
        let Self { layers, disks, watched, cut_short, .. } = self;
        let cut_short = cut_short || !level.is_empty();
        (!layers.is_empty()).then_some(DeviceStack { layers, disks, watched, cut_short })
    }

    /// Records a device, and the whole device if it is a partition; returns the devices directly below.
    fn visit(&mut self, device: &SysfsDevice) -> Vec<SysfsDevice> {
        let whole = device.whole();
        let is_part = whole.is_some();
        let name = whole.as_ref().map_or(&device.name, |whole| &whole.name);
        let known = self.met.get(name).copied();
        let index = known.unwrap_or_else(|| u32::try_from(self.met.len()).unwrap_or(u32::MAX));
        if is_part && !self.layers.iter().any(|layer| layer.number == device.number) {
            self.layer(device, index, LayerKind::Partition, None);
        }
        if known.is_some() {
            return Vec::new();
        }
        self.met.insert(name.clone(), index);
        let whole = whole.as_ref().unwrap_or(device);
        self.watch(whole, index);
        let kind = whole.kind();
        let backing = whole.text("loop/backing_file");
        let alias = whole.text("dm/name").or_else(|| backing.clone());
        self.layer(whole, index, kind, alias);
        match kind {
            LayerKind::Loop => self.of_file(backing.as_deref()),
            LayerKind::Disk | LayerKind::Partition => {
                self.disks.push(Disk::read(&whole.directory, index, &whole.name, whole.number));
                Vec::new()
            }
            LayerKind::Dm | LayerKind::DmLvm | LayerKind::DmCrypt | LayerKind::Md => {
                let slaves = whole.entries("slaves");
                let found: Vec<SysfsDevice> =
                    slaves.iter().filter_map(|slave| SysfsDevice::at(slave)).collect();
                self.cut_short |= found.is_empty() || found.len() < slaves.len();
                found
            }
        }
    }

    fn layer(&mut self, device: &SysfsDevice, index: u32, kind: LayerKind, alias: Option<String>) {
        self.layers.push(Layer { index, name: device.name.clone(), alias, kind, number: device.number });
    }

    fn watch(&mut self, whole: &SysfsDevice, layer: u32) {
        self.watched.push(WatchedDevice { dev: whole.number.kernel(), layer });
        let parts = whole.entries("").into_iter().filter(|entry| entry.join("partition").exists());
        let numbers = parts.filter_map(|part| fs::read_to_string(part.join("dev")).ok()?.parse().ok());
        self.watched.extend(numbers.map(|part: DeviceNumber| WatchedDevice { dev: part.kernel(), layer }));
    }

    /// Returns the devices of a mounted file system.
    fn of_mount(&self, mount: &Mount, depth: u32) -> Vec<SysfsDevice> {
        // An overlay may be on another overlay; no sane system nests them this deep.
        let Some(depth) = depth.checked_sub(1) else { return Vec::new() };
        match &*mount.filesystem {
            "overlay" => {
                let upper = mount.super_options.get("upperdir").and_then(Option::as_deref);
                let upper = upper.map(|upper| mount_info::unescape(upper.as_bytes()));
                let below = upper.filter(|upper| upper.is_absolute()).map(|upper| self.mount_of(&upper));
                below.map_or_else(Vec::new, |below| self.of_mount(&below, depth))
            }
            "btrfs" => self.by_source(&mount.device).map_or_else(Vec::new, |device| self.siblings(device)),
            _ => mount.number.and_then(|number| self.by_number(number)).into_iter().collect(),
        }
    }

    /// Returns the devices below the file behind a loop device.
    fn of_file(&mut self, path: Option<&str>) -> Vec<SysfsDevice> {
        let path = path.map(|path| Path::new(path.strip_suffix(DELETED).unwrap_or(path)));
        let below = path.map_or_else(Vec::new, |path| self.of_mount(&self.mount_of(path), MAX_DEPTH));
        // A file on tmpfs has no device, so the result is complete.
        let in_memory = path.is_some_and(|path| self.mount_of(path).filesystem == "tmpfs");
        self.cut_short |= below.is_empty() && !in_memory;
        below
    }

    /// Returns pid 1's mount that contains a path.
    fn mount_of(&self, path: &Path) -> Mount {
        let inside = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let st_dev = rustix::fs::stat(&inside).ok().map(|stat| stat.st_dev);
        mount_info::find_mount(&self.mounts, path, st_dev)
    }

    fn by_number(&self, number: DeviceNumber) -> Option<SysfsDevice> {
        SysfsDevice::at(&self.sysfs.join("dev/block").join(number.to_string()))
    }

    /// Finds the device of a mount source: `/dev/sda2` by its name, `/dev/mapper/NAME` by the name that the
    /// device mapper reports, otherwise by the device node that pid 1 has at this path.
    fn by_source(&self, source: &str) -> Option<SysfsDevice> {
        let source = mount_info::unescape(source.as_bytes());
        let devices = self.sysfs.join("class/block");
        let below_dev = source.strip_prefix("/dev").ok()?;
        let named = match below_dev.strip_prefix("mapper") {
            Err(_) => SysfsDevice::at(&devices.join(below_dev)),
            Ok(mapped) => fs::read_dir(devices)
                .ok()?
                .flatten()
                .filter_map(|entry| SysfsDevice::at(&entry.path()))
                .find(|device| device.text("dm/name").is_some_and(|name| Path::new(&name) == mapped)),
        };
        named.or_else(|| {
            let st_rdev = rustix::fs::stat(self.root.join("dev").join(below_dev)).ok()?.st_rdev;
            self.by_number(DeviceNumber { major: major(st_rdev), minor: minor(st_rdev) })
        })
    }

    /// Returns a device of a btrfs file system and all other devices of it, because it spreads over all of
    /// them (`/sys/fs/btrfs/UUID/devices`).
    fn siblings(&self, device: SysfsDevice) -> Vec<SysfsDevice> {
        let file_systems = fs::read_dir(self.sysfs.join("fs/btrfs")).into_iter().flatten().flatten();
        let mut its = file_systems.map(|entry| entry.path().join("devices"));
        let Some(devices) = its.find(|devices| devices.join(&device.name).exists()) else {
            return vec![device];
        };
        let entries = fs::read_dir(devices).into_iter().flatten().flatten();
        let mut others: Vec<_> = entries.filter_map(|entry| SysfsDevice::at(&entry.path())).collect();
        others.retain(|other| other.number != device.number);
        others.sort_unstable_by_key(|other| other.number);
        let mut all = vec![device];
        all.append(&mut others);
        all
    }
}
