//! Directories for a test's files: temporary directories, tmpfs mounts, and loop devices with their own file
//! systems.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::mount::{self, MountFlags, UnmountFlags};

use crate::machine::cancel::Cancel;
use crate::machine::command;

#[cfg(feature = "harness")]
mod slow_fs;

#[cfg(feature = "harness")]
pub use slow_fs::{Served, SlowFs};

/// How long an unmount may fail because a process that was just killed still has a file open.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(30);

/// A private directory, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Creates `<root>/<name>-<pid>-<n>`.
    pub fn new(root: &Path, name: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{name}-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, keep: false })
    }

    /// Creates a directory for large temporary files: on a disk, unlike `/tmp`.
    pub fn on_disk(name: &str) -> anyhow::Result<Self> {
        Self::new(Path::new("/var/tmp"), name)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the directory when this is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// A mounted file system, unmounted on drop.
#[derive(Debug)]
struct Mount {
    point: PathBuf,
}

impl Mount {
    fn new(options: &[&str], source: &str, point: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(point).with_context(|| format!("cannot create {}", point.display()))?;
        let point_word = point.to_str().context("cannot mount on a path that is not UTF-8")?;
        command::run("mount", &[options, &[source, point_word]].concat())?;
        Ok(Self { point: point.to_owned() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut refusal = None;
        let unmounted = Cancel::default().wait_for(UNMOUNT_LIMIT, || {
            refusal = command::run("umount", &[&self.point]).err();
            Ok(refusal.is_none().then_some(()))
        });
        if let (Ok(None), Some(error)) = (unmounted, refusal) {
            eprintln!("cannot unmount {}: {error}", self.point.display());
        }
    }
}

/// A file system in memory.
#[derive(Debug)]
pub struct Tmpfs(Mount);

impl Tmpfs {
    /// Mounts a tmpfs of `mib` MiB at `point`, which is created.
    pub fn mount(point: &Path, mib: u32) -> anyhow::Result<Self> {
        Ok(Self(Mount::new(&["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700")], "tmpfs", point)?))
    }

    pub fn path(&self) -> &Path {
        &self.0.point
    }
}

/// tracefs at its usual mount point, for a machine where it is not mounted.
#[derive(Debug)]
pub struct Tracefs(());

impl Tracefs {
    pub const POINT: &str = "/sys/kernel/tracing";

    pub fn mount() -> anyhow::Result<Self> {
        mount::mount("tracefs", Self::POINT, "tracefs", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount tracefs on {}", Self::POINT))?;
        Ok(Self(()))
    }

    pub fn path(&self) -> &'static Path {
        Path::new(Self::POINT)
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if let Err(error) = mount::unmount(Self::POINT, UnmountFlags::empty()) {
            eprintln!("cannot unmount {}: {error}", Self::POINT);
        }
    }
}

/// An overlay: changes go to another directory, as in the root of a container.
#[derive(Debug)]
pub struct Overlay(Mount);

impl Overlay {
    /// Mounts an overlay at `point`; its layers are created next to it.
    pub fn mount(point: &Path) -> anyhow::Result<Self> {
        let layer = |kind: &str| {
            let layer = point.with_extension(kind);
            fs::create_dir_all(&layer).with_context(|| format!("cannot create {}", layer.display()))?;
            anyhow::Ok(format!("{kind}dir={}", layer.display()))
        };
        let layers = [layer("lower")?, layer("upper")?, layer("work")?].join(",");
        Ok(Self(Mount::new(&["-t", "overlay", "-o", &layers], "overlay", point)?))
    }

    pub fn path(&self) -> &Path {
        &self.0.point
    }
}

/// The file system on a loop device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    Ext4,
    Xfs,
    Btrfs,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }
}

/// A loop device, detached on drop.
#[derive(Debug)]
struct Loop {
    device: String,
}

impl Loop {
    fn attach(image: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let image = image.to_str().context("cannot attach a path that is not UTF-8")?;
        Ok(Self { device: command::run("losetup", &[options, &["--find", "--show", image]].concat())? })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Err(error) = command::run("losetup", &["--detach", &self.device]) {
            eprintln!("{error}");
        }
    }
}

/// A file system on a loop device over a sparse image. Deleted, unmounted and detached on drop.
///
/// With its image on a [`Tmpfs`] it is a disk that is always fast.
#[derive(Debug)]
pub struct LoopFs {
    // Fields are dropped in this order.
    mount: Mount,
    device: Loop,
    image: PathBuf,
}

impl LoopFs {
    /// Creates `<at>.img`, formats it and mounts it at `at`. xfs requires at least 300 MiB, btrfs 110.
    pub fn create(at: &Path, format: Format, mib: u32) -> anyhow::Result<Self> {
        let image = at.with_extension("img");
        let file = File::create(&image).with_context(|| format!("cannot create {}", image.display()))?;
        file.set_len(u64::from(mib) << 20).with_context(|| format!("cannot size {}", image.display()))?;
        let device = Loop::attach(&image, &[])?;
        let quiet: &[&str] = match format {
            Format::Ext4 => &["-q", "-F"],
            Format::Xfs | Format::Btrfs => &["-q", "-f"],
        };
        command::run(&format!("mkfs.{}", format.name()), &[quiet, &[&device.device]].concat())?;
        let mount = Mount::new(&["-t", format.name()], &device.device, at)?;
        Ok(Self { mount, device, image })
    }

    pub fn path(&self) -> &Path {
        &self.mount.point
    }

    /// Returns the device's path, such as `/dev/loop0`.
    pub fn device(&self) -> &str {
        &self.device.device
    }

    /// Freezes the file system: every write and sync on it blocks until the guard is dropped.
    pub fn freeze(&self) -> anyhow::Result<Frozen<'_>> {
        Frozen::new(self.path())
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        // The name is removed first; the blocks follow when the device releases them.
        if let Err(error) = fs::remove_file(&self.image) {
            eprintln!("cannot remove {}: {error}", self.image.display());
        }
    }
}

/// A frozen file system, thawed on drop.
#[derive(Debug)]
pub struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(point: &'a Path) -> anyhow::Result<Self> {
        command::run("fsfreeze", &[Path::new("--freeze"), point])?;
        Ok(Self(point))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = command::run("fsfreeze", &[Path::new("--unfreeze"), self.0]) {
            eprintln!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_goes_unless_kept() {
        let root = std::env::temp_dir();
        let scratch = Scratch::new(&root, "scratch-test").unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists(), "it is removed with its content");

        let mut kept = Scratch::new(&root, "scratch-test").unwrap();
        kept.keep();
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.exists(), "it was to be kept");
        fs::remove_dir(path).unwrap();
    }
}
