//! The devices below a directory: from its mount down to the disks.
//!
//! Everything is read from sysfs and from the mounts of pid 1, below directories that tests can provide. The
//! kind of each device follows from the attributes that the block layer documents
//! (Documentation/ABI/stable/sysfs-block).

mod disk;
mod sysfs_walk;

use std::path::Path;

use serde::Serialize;

pub use disk::Disk;

use crate::system::{device_number::DeviceNumber, mount_info::Mount};

/// The devices below a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceStack {
    /// From the device that the file system is on downwards, level by level; never empty.
    pub layers: Vec<Layer>,
    /// The disks among the layers, with their attributes.
    pub disks: Vec<Disk>,
    /// Every device whose requests belong to one of the layers.
    #[serde(skip)]
    watched: Vec<WatchedDevice>,
    /// Whether devices below are missing: deeper than eight levels, or not found.
    pub cut_short: bool,
}

/// One device between a file system and its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Index among the layers: 0 is the device that the file system is on. A partition and its disk have the
    /// same index, because their requests are the same.
    pub index: u32,
    /// The kernel's name: `dm-0`.
    pub name: String,
    /// The name that operators use: the name in `/dev/mapper`, or the file behind a loop device.
    pub alias: Option<String>,
    pub kind: LayerKind,
    pub number: DeviceNumber,
}

/// The kind of device of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerKind {
    Partition,
    /// A logical volume of LVM.
    DmLvm,
    /// LUKS or plain dm-crypt.
    DmCrypt,
    /// Any other target of the device mapper: multipath, delay, integrity.
    Dm,
    /// Software RAID.
    Md,
    /// A file that acts as a disk.
    Loop,
    /// A device with no device below it that is known to this kernel.
    Disk,
}

impl LayerKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::DmLvm => "dm-lvm",
            Self::DmCrypt => "dm-crypt",
            Self::Dm => "dm",
            Self::Md => "md",
            Self::Loop => "loop",
            Self::Disk => "disk",
        }
    }
}

/// A device for the kernel programs to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchedDevice {
    /// The kernel's own `dev_t`, [`DeviceNumber::kernel`].
    pub dev: u32,
    /// [`Layer::index`].
    pub layer: u32,
}

/// Returns the devices below a mount; `None` if there are none, as with tmpfs and network file systems.
///
/// `sysfs` is `/sys`, `proc` is `/proc`. Files behind loop devices and the upper directories of overlayfs are
/// looked up in the root directory of pid 1, or, if access to it is denied, in our own. The kernel reports
/// the path of such a file relative to our root directory, or to the root of the mount tree that contains the
/// file if that is a different one (`d_path` of `fs/d_path.c`).
pub fn under(mount: &Mount, sysfs: &Path, proc: &Path) -> Option<DeviceStack> {
    sysfs_walk::SysfsWalk::new(sysfs, proc).from(mount)
}

impl DeviceStack {
    /// Returns the device that the file system is on.
    ///
    /// # Panics
    ///
    /// Never: [`under`] does not return a stack without layers.
    pub fn top(&self) -> &Layer {
        self.layers.first().expect("a stack has at least one layer")
    }

    /// Returns every device whose requests belong to one of the layers, the partitions of its disks included.
    ///
    /// Other processes that use other partitions queue on the same disk. The tracepoint `block_bio_queue`
    /// records the partition since Linux 5.12 (`bio->bi_bdev`; before, the number of its disk); the
    /// tracepoints of requests always record the disk.
    pub fn devices(&self) -> Vec<WatchedDevice> {
        self.watched.clone()
    }

    /// Returns the device numbers for which a cgroup may limit block I/O: the number of every layer except
    /// partitions, for which the kernel refuses limits.
    pub fn limitable(&self) -> Vec<DeviceNumber> {
        self.layers
            .iter()
            .filter(|layer| layer.kind != LayerKind::Partition)
            .map(|layer| layer.number)
            .collect()
    }
}

#[cfg(test)]
mod tests;
