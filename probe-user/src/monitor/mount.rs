//! Which device and file system a directory is on.

use std::path::Path;

use procfs::process::{MountInfo, Process};
use rustix::fs::{major, minor};

/// A mount, as the process sees it; empty where it could not be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `/dev/vda1`, or what else mountinfo calls the source.
    pub device: String,
    pub filesystem: String,
}

/// Returns the mount that holds a directory of a process.
///
/// By its device number; where `stat` tells another one than mountinfo, as on btrfs, by the longest path.
pub fn of(pid: u32, directory: &Path, st_dev: u64) -> Mount {
    let Ok(mounts) = i32::try_from(pid)
        .map_err(drop)
        .and_then(|pid| Process::new(pid).and_then(|process| process.mountinfo()).map_err(drop))
    else {
        return Mount::default();
    };
    let mounts: Vec<MountInfo> = mounts.into_iter().collect();
    let number = format!("{}:{}", major(st_dev), minor(st_dev));
    let holds = |mount: &&MountInfo| directory.starts_with(&mount.mount_point);
    let longest = |mount: &&MountInfo| mount.mount_point.as_os_str().len();
    let by_number = mounts.iter().filter(|mount| mount.majmin == number).filter(holds).max_by_key(longest);
    let found = by_number.or_else(|| mounts.iter().filter(holds).max_by_key(longest));
    found.map_or_else(Mount::default, |mount| Mount {
        device: mount.mount_source.clone().unwrap_or_default(),
        filesystem: mount.fs_type.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_proc_file_system_is_found() {
        let st_dev = std::fs::metadata("/proc").expect("mounted in every test").dev();
        let mount = of(std::process::id(), Path::new("/proc/1"), st_dev);
        assert_eq!(mount.filesystem, "proc");
    }

    #[test]
    fn an_unknown_process_has_no_mount() {
        assert_eq!(of(u32::MAX, Path::new("/"), 0), Mount::default());
    }
}
