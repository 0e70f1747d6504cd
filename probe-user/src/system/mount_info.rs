//! The mount, and so the device and file system, of a directory.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use procfs::{
    FromRead,
    process::{MountInfo, MountInfos},
};
use rustix::fs::{major, minor};

use crate::system::device_number::DeviceNumber;

/// A mount in the mount namespace of a process; fields that could not be read are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The source in mountinfo, such as `/dev/vda1`.
    pub device: String,
    pub filesystem: String,
    /// The device number in mountinfo; for btrfs, overlayfs, tmpfs and similar file systems it is the number
    /// of no device (major 0).
    pub number: Option<DeviceNumber>,
    /// Options of this mount, by name: `relatime`, `ro`.
    pub options: MountOptions,
    /// Options of the file system, common to all its mounts: `data=ordered`, `upperdir=...`.
    pub super_options: MountOptions,
}

/// Mount options by name; `None` for an option without a value.
pub type MountOptions = BTreeMap<String, Option<String>>;

/// Returns the mount that contains a directory of a process.
///
/// It is found by device number; where `stat` and mountinfo have different numbers, as on btrfs, by the
/// longest path.
pub fn of(pid: u32, directory: &Path, st_dev: u64) -> Mount {
    let mounts = read(&PathBuf::from(format!("/proc/{pid}/mountinfo")));
    find_mount(&mounts, directory, Some(st_dev))
}

/// Returns the mount that contains a directory of a process, by its path alone; `None` if the process has
/// ended.
pub fn of_path(pid: u32, directory: &Path) -> Option<Mount> {
    let mounts = read(&PathBuf::from(format!("/proc/{pid}/mountinfo")));
    (!mounts.is_empty()).then(|| find_mount(&mounts, directory, None))
}

/// Reads a mountinfo file; empty if it cannot be read.
pub fn read(mountinfo: &Path) -> Vec<MountInfo> {
    let mounts = File::open(mountinfo).ok().and_then(|file| MountInfos::from_read(file).ok());
    mounts.map(|mounts| mounts.0).unwrap_or_default()
}

/// Returns the directory in `/proc` of the process whose mounts are the mounts of the host: pid 1, or, if
/// access to its root directory is denied, this process. `proc` is `/proc`.
pub fn host_proc_dir(proc: &Path) -> PathBuf {
    let init = proc.join("1");
    if init.join("root").is_dir() { init } else { proc.join("self") }
}

/// Returns the mount that contains a path: the longest one among the mounts with its device number, or among
/// all if there are none.
///
/// Of several mounts at the same path the last one is returned, which hides the others.
pub fn find_mount(mounts: &[MountInfo], path: &Path, st_dev: Option<u64>) -> Mount {
    let number = st_dev.map(|st_dev| format!("{}:{}", major(st_dev), minor(st_dev)));
    let holds = |mount: &&MountInfo| path.starts_with(unescape(mount.mount_point.as_os_str().as_bytes()));
    let longest = |mount: &&MountInfo| mount.mount_point.as_os_str().len();
    let is_its = |mount: &&MountInfo| number.as_ref() == Some(&mount.majmin);
    let by_number = mounts.iter().filter(is_its).filter(holds).max_by_key(longest);
    let found = by_number.or_else(|| mounts.iter().filter(holds).max_by_key(longest));
    found.map_or_else(Mount::default, Mount::from)
}

impl From<&MountInfo> for Mount {
    fn from(mount: &MountInfo) -> Self {
        let options = |options: &std::collections::HashMap<String, Option<String>>| {
            options.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        Self {
            device: mount.mount_source.clone().unwrap_or_default(),
            filesystem: mount.fs_type.clone(),
            number: mount.majmin.parse().ok(),
            options: options(&mount.mount_options),
            super_options: options(&mount.super_options),
        }
    }
}

/// Decodes blanks, line ends and backslashes, which the kernel escapes in mountinfo, such as `\040`
/// (`mangle_path` of `fs/seq_file.c`).
pub fn unescape(bytes: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| first == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(plain).into()
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
        assert_eq!(mount.number.map(|number| number.major), Some(0));
    }

    #[test]
    fn an_unknown_process_has_no_mount() {
        assert_eq!(of(u32::MAX, Path::new("/"), 0), Mount::default());
    }

    #[test]
    fn the_mount_is_found_by_number_then_by_path() {
        let lines = [
            "27 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw",
            "30 27 8:17 / /var rw - xfs /dev/sdb1 rw",
            "31 30 0:40 / /var/lib\\040here rw,noatime - btrfs /dev/sdc rw,compress=zstd:1",
            "32 30 8:33 / /var/twice rw - ext4 /dev/sdc1 rw",
            "33 30 8:49 / /var/twice rw - ext4 /dev/sdd1 rw",
        ];
        let mounts = lines.map(|line| MountInfo::from_line(line).unwrap());
        let cases = [
            ("/var/lib/etcd", Some((8, 17)), "/dev/sdb1", "number and path agree"),
            (
                "/var/lib/etcd",
                Some((8, 1)),
                "/dev/sda1",
                "the longer path was mounted over an open directory",
            ),
            ("/var/lib here/etcd", Some((0, 41)), "/dev/sdc", "a subvolume has its own number"),
            ("/var/lib", None, "/dev/sdb1", "without a number"),
            ("/variable", None, "/dev/sda1", "whole names only"),
            ("/var/twice/x", None, "/dev/sdd1", "the last one hides the first"),
        ];
        for (path, number, device, why) in cases {
            let st_dev = number.map(|(major, minor)| rustix::fs::makedev(major, minor));
            assert_eq!(find_mount(&mounts, Path::new(path), st_dev).device, device, "{path}: {why}");
        }
        let mount = find_mount(&mounts, Path::new("/var/lib here"), None);
        assert_eq!(mount.options.get("noatime"), Some(&None));
        assert_eq!(mount.super_options["compress"].as_deref(), Some("zstd:1"));
    }

    #[test]
    fn escapes_are_decoded() {
        let cases = [
            ("/a\\040b", "/a b"),
            ("/a\\134040", "/a\\040"),
            ("/a\\x", "/a\\x"),
            ("/a\\04", "/a\\04"),
            ("", ""),
        ];
        for (escaped, plain) in cases {
            assert_eq!(unescape(escaped.as_bytes()), Path::new(plain), "{escaped}");
        }
    }
}
