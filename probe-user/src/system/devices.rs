//! The devices under a directory: from the mount it is on down to the disks that serve it.
//!
//! Everything is read from sysfs and from what pid 1 has mounted, below directories that tests can make up. What each
//! device is follows from the attributes that the block layer documents (Documentation/ABI/stable/sysfs-block).

mod disk;
mod sysfs_walk;

use std::path::Path;

use serde::Serialize;

pub use disk::Disk;

use crate::system::{device_number::DeviceNumber, mount_info::Mount};

/// What serves a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stack {
    /// From the device that the file system is on downwards, level by level; never empty.
    pub layers: Vec<Layer>,
    /// The disks among the layers, and what else is known of them.
    pub disks: Vec<Disk>,
    /// Every device whose requests belong to one of the layers.
    #[serde(skip)]
    watched: Vec<WatchedDevice>,
    /// Whether something below was left out: deeper than eight levels, or not to be found.
    pub cut_short: bool,
}

/// One device between a file system and its disks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its number among the layers: 0 is what the file system is on. A partition and its disk share one, for their requests
    /// are the same ones.
    pub index: u32,
    /// The kernel's name: `dm-0`.
    pub name: String,
    /// What people call it: the name in `/dev/mapper`, or the file behind a loop device.
    pub alias: Option<String>,
    pub kind: Kind,
    pub number: DeviceNumber,
}

/// What kind of device a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
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
    /// What has nothing below that this kernel knows of.
    Disk,
}

impl Kind {
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

/// A device for the kernel side to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchedDevice {
    /// The kernel's own `dev_t`, [`DeviceNumber::kernel`].
    pub dev: u32,
    /// [`Layer::index`].
    pub layer: u32,
}

/// Returns the devices under a mount; `None` if there are none, as with tmpfs and network file systems.
///
/// `sysfs` is `/sys`, `proc` is `/proc`: files behind loop devices and the upper directories of overlayfs are looked up as
/// pid 1 sees them, or, if its root directory is closed to us, as we do. The kernel tells the path of such a file from our root
/// directory, or from the root of the mount tree that it is in if that is another (`d_path` of `fs/d_path.c`).
pub fn under(mount: &Mount, sysfs: &Path, proc: &Path) -> Option<Stack> {
    sysfs_walk::Walk::new(sysfs, proc).from(mount)
}

impl Stack {
    /// Returns the device that the file system is on.
    ///
    /// # Panics
    ///
    /// Never: [`under`] returns no stack without layers.
    pub fn top(&self) -> &Layer {
        self.layers.first().expect("a stack has at least one layer")
    }

    /// Returns every device whose requests belong to one of the layers, the partitions of its disks included.
    ///
    /// Neighbours on other partitions queue for the same disk. The tracepoint `block_bio_queue` names the partition since
    /// Linux 5.12 (`bio->bi_bdev`; before, the number of its disk), those of requests always name the disk.
    pub fn devices(&self) -> Vec<WatchedDevice> {
        self.watched.clone()
    }

    /// Returns the numbers by which a cgroup may limit block I/O: of every layer but partitions, which it refuses.
    pub fn limitable(&self) -> Vec<DeviceNumber> {
        self.layers.iter().filter(|layer| layer.kind != Kind::Partition).map(|layer| layer.number).collect()
    }
}

#[cfg(test)]
mod tests;
