//! The directories for the files of workers and etcd members.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use probe_tests::machine::scratch::{Format, LoopFs, Scratch, Tmpfs};
use rustix::fs::{major, minor};

/// A directory in memory. Removed on drop.
pub struct Memory {
    // Unmounted before the directory goes.
    _mounted: Option<Tmpfs>,
    _scratch: Scratch,
    path: PathBuf,
}

impl Memory {
    /// Mounts a new file system.
    pub fn mount(root: &Path, name: &str, mib: u32) -> anyhow::Result<Self> {
        let scratch = Scratch::new(root, name)?;
        let mounted = Tmpfs::mount(&scratch.path().join("memory"), mib)?;
        let path = mounted.path().to_owned();
        Ok(Self { _mounted: Some(mounted), _scratch: scratch, path })
    }

    /// Uses a directory of a file system that is in memory already.
    pub fn within(root: &Path, name: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::new(root, name)?;
        let path = scratch.path().to_owned();
        Ok(Self { _mounted: None, _scratch: scratch, path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory on a disk. Removed on drop.
pub struct Disk {
    // Unmounted before the directory goes.
    mounted: Option<LoopFs>,
    scratch: Scratch,
}

impl Disk {
    /// Creates a loop device.
    pub fn mount(root: &Path, name: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::new(root, name)?;
        let mounted = LoopFs::create(&scratch.path().join("disk"), Format::Ext4, 64)?;
        Ok(Self { mounted: Some(mounted), scratch })
    }

    /// Uses a directory of an existing disk.
    pub fn within(root: &Path, name: &str) -> anyhow::Result<Self> {
        Ok(Self { mounted: None, scratch: Scratch::new(root, name)? })
    }

    pub fn path(&self) -> &Path {
        self.mounted.as_ref().map_or(self.scratch.path(), LoopFs::path)
    }

    /// Returns the kernel's internal device number (`MKDEV` in `include/linux/kdev_t.h`).
    pub fn device(&self) -> anyhow::Result<u32> {
        let device = fs::metadata(self.path()).context("cannot stat a disk")?.st_dev();
        Ok(major(device) << 20 | minor(device))
    }
}
