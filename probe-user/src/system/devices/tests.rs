//! Fixture hosts: a sysfs and the mounts of pid 1.

use std::path::PathBuf;

use procfs::process::MountInfo;

use super::*;
use crate::support::fixture::Tree;

/// A disk with two partitions, a disk without, and the devices built on them.
const SYSFS: &[(&str, &str)] = &[
    ("sys/dev/block/8:0", "-> ../../devices/pci/block/sda"),
    ("sys/dev/block/8:1", "-> ../../devices/pci/block/sda/sda1"),
    ("sys/dev/block/8:16", "-> ../../devices/pci/block/sdb"),
    ("sys/dev/block/7:0", "-> ../../devices/virtual/block/loop0"),
    ("sys/dev/block/7:1", "-> ../../devices/virtual/block/loop1"),
    ("sys/dev/block/253:0", "-> ../../devices/virtual/block/dm-0"),
    ("sys/dev/block/253:1", "-> ../../devices/virtual/block/dm-1"),
    ("sys/dev/block/253:2", "-> ../../devices/virtual/block/dm-2"),
    ("sys/dev/block/253:3", "-> ../../devices/virtual/block/dm-3"),
    ("sys/dev/block/9:0", "-> ../../devices/virtual/block/md0"),
    ("sys/class/block/sda2", "-> ../../devices/pci/block/sda/sda2"),
    ("sys/class/block/sdb", "-> ../../devices/pci/block/sdb"),
    ("sys/class/block/dm-0", "-> ../../devices/virtual/block/dm-0"),
    ("sys/class/block/dm-1", "-> ../../devices/virtual/block/dm-1"),
    ("sys/devices/pci/block/sda/dev", "8:0\n"),
    ("sys/devices/pci/block/sda/device/model", "PersistentDisk  \n"),
    ("sys/devices/pci/block/sda/device/vendor", "Google  \n"),
    ("sys/devices/pci/block/sda/queue/rotational", "0\n"),
    ("sys/devices/pci/block/sda/queue/scheduler", "none [mq-deadline]\n"),
    ("sys/devices/pci/block/sda/queue/write_cache", "write back\n"),
    ("sys/devices/pci/block/sda/queue/nr_requests", "256\n"),
    ("sys/devices/pci/block/sda/sda1/dev", "8:1\n"),
    ("sys/devices/pci/block/sda/sda1/partition", "1\n"),
    ("sys/devices/pci/block/sda/sda2/dev", "8:2\n"),
    ("sys/devices/pci/block/sda/sda2/partition", "2\n"),
    ("sys/devices/pci/block/sdb/dev", "8:16\n"),
    ("sys/devices/pci/block/sdb/device/vendor", "0x1af4\n"),
    // A logical volume on an encrypted partition.
    ("sys/devices/virtual/block/dm-0/dev", "253:0\n"),
    ("sys/devices/virtual/block/dm-0/dm/name", "vg-etcd\n"),
    ("sys/devices/virtual/block/dm-0/dm/uuid", "LVM-abc\n"),
    ("sys/devices/virtual/block/dm-0/slaves/dm-1", "-> ../../dm-1"),
    ("sys/devices/virtual/block/dm-1/dev", "253:1\n"),
    ("sys/devices/virtual/block/dm-1/dm/name", "luks-1\n"),
    ("sys/devices/virtual/block/dm-1/dm/uuid", "CRYPT-LUKS2-abc-luks-1\n"),
    ("sys/devices/virtual/block/dm-1/slaves/sda2", "-> ../../../../pci/block/sda/sda2"),
    // Another device mapper target, whose disk does not exist; and an impossible one that is below itself.
    ("sys/devices/virtual/block/dm-2/dev", "253:2\n"),
    ("sys/devices/virtual/block/dm-2/dm/name", "slow\n"),
    ("sys/devices/virtual/block/dm-2/dm/uuid", "\n"),
    ("sys/devices/virtual/block/dm-2/slaves/sdz", "-> ../../../../pci/block/sdz"),
    ("sys/devices/virtual/block/dm-3/dev", "253:3\n"),
    ("sys/devices/virtual/block/dm-3/dm/name", "ring\n"),
    ("sys/devices/virtual/block/dm-3/slaves/dm-3", "-> ../../dm-3"),
    // A RAID array of a partition and a whole disk.
    ("sys/devices/virtual/block/md0/dev", "9:0\n"),
    ("sys/devices/virtual/block/md0/md/level", "raid1\n"),
    ("sys/devices/virtual/block/md0/slaves/sda1", "-> ../../../../pci/block/sda/sda1"),
    ("sys/devices/virtual/block/md0/slaves/sdb", "-> ../../../../pci/block/sdb"),
    // Files that act as disks: on the RAID array, and in memory.
    ("sys/devices/virtual/block/loop0/dev", "7:0\n"),
    ("sys/devices/virtual/block/loop0/loop/backing_file", "/srv/a disk.img\n"),
    ("sys/devices/virtual/block/loop1/dev", "7:1\n"),
    ("sys/devices/virtual/block/loop1/loop/backing_file", "/tmp/disk.img (deleted)\n"),
    ("sys/fs/btrfs/features/raid1c34", "0\n"),
    ("sys/fs/btrfs/1234/devices/sdb", "-> ../../../../devices/pci/block/sdb"),
    ("sys/fs/btrfs/1234/devices/dm-0", "-> ../../../../devices/virtual/block/dm-0"),
    ("proc/1/root/srv/a disk.img", ""),
    // The fixture files have the device number of the real temporary directory, which must differ from that
    // of every mount.
    (
        "proc/1/mountinfo",
        "27 1 4000:1 / / rw - ext4 /dev/sda1 rw\n\
         28 27 9:0 / /srv rw - ext4 /dev/md0 rw\n\
         29 27 0:30 / /tmp rw - tmpfs tmpfs rw\n",
    ),
];

fn stack_of(line: &str) -> Option<DeviceStack> {
    let tree = Tree::with(SYSFS);
    let mount = Mount::from(&MountInfo::from_line(line).unwrap());
    under(&mount, &tree.join("sys"), &tree.join("proc"))
}

/// Returns the layers as `index name kind`, in order.
fn outline(stack: &DeviceStack) -> String {
    let layers = stack.layers.iter();
    let layers = layers.map(|layer| format!("{} {} {}", layer.index, layer.name, layer.kind.as_str()));
    layers.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_walk_ends_at_the_disks() {
    let cases = [
        ("ext4 on a partition", "8:1", "ext4 /dev/sda1", "0 sda1 partition, 0 sda disk"),
        ("xfs on a disk", "8:16", "xfs /dev/sdb", "0 sdb disk"),
        (
            "LVM on LUKS on a partition",
            "253:0",
            "ext4 /dev/mapper/vg-etcd",
            "0 dm-0 dm-lvm, 1 dm-1 dm-crypt, 2 sda2 partition, 2 sda disk",
        ),
        ("RAID", "9:0", "ext4 /dev/md0", "0 md0 md, 1 sda1 partition, 1 sda disk, 2 sdb disk"),
        (
            "a file on the RAID",
            "7:0",
            "ext4 /dev/loop0",
            "0 loop0 loop, 1 md0 md, 2 sda1 partition, 2 sda disk, 3 sdb disk",
        ),
        ("a file in memory", "7:1", "ext4 /dev/loop1", "0 loop1 loop"),
        ("btrfs by its source", "0:44", "btrfs /dev/sda2", "0 sda2 partition, 0 sda disk"),
        (
            "btrfs over two devices",
            "0:45",
            "btrfs /dev/mapper/vg-etcd",
            "0 dm-0 dm-lvm, 1 sdb disk, 2 dm-1 dm-crypt, 3 sda2 partition, 3 sda disk",
        ),
    ];
    for (why, number, rest, expected) in cases {
        let stack = stack_of(&format!("1 1 {number} / / rw - {rest} rw")).expect(why);
        assert_eq!(outline(&stack), expected, "{why}");
        assert!(!stack.cut_short, "{why}");
        assert_eq!(stack.top().index, 0, "{why}");
    }
}

#[test]
fn an_overlay_is_on_the_device_of_its_upper_directory() {
    let upper = "1 1 0:50 / / rw - overlay overlay rw,lowerdir=/a,upperdir=/srv/up/diff,workdir=/srv/up/work";
    assert!(outline(&stack_of(upper).unwrap()).starts_with("0 md0 md, 1 sda1"));
    for line in [
        "1 1 0:50 / / ro - overlay overlay ro,lowerdir=/a:/b",
        "1 1 0:50 / / rw - overlay overlay rw,upperdir=../relative",
        "1 1 0:30 / /tmp rw - tmpfs tmpfs rw",
        "1 1 0:60 / /mnt rw - nfs4 server:/export rw",
        "1 1 8:99 / /mnt rw - ext4 /dev/sdz9 rw",
    ] {
        assert_eq!(stack_of(line), None, "{line}");
    }
}

#[test]
fn our_own_mounts_are_used_if_access_to_pid_1_is_denied() {
    let mut files: Vec<(&str, &str)> =
        SYSFS.iter().copied().filter(|(path, _)| !path.starts_with("proc/1/root")).collect();
    files.push(("proc/self/mountinfo", "27 1 8:16 / / rw - ext4 /dev/sdb rw\n"));
    let tree = Tree::with(&files);
    let mount = Mount { number: "7:0".parse().ok(), ..Mount::default() };
    let stack = under(&mount, &tree.join("sys"), &tree.join("proc")).unwrap();
    assert_eq!(outline(&stack), "0 loop0 loop, 1 sdb disk");
}

#[test]
fn an_incomplete_stack_is_marked() {
    for (number, outlined) in [("253:2", "0 dm-2 dm"), ("253:3", "0 dm-3 dm")] {
        let stack = stack_of(&format!("1 1 {number} / / rw - ext4 /dev/mapper/x rw")).unwrap();
        assert_eq!(outline(&stack), outlined);
        assert_eq!(stack.cut_short, number == "253:2", "{number}: a cycle ends at its start");
    }
}

#[test]
fn a_chain_of_devices_is_followed_to_a_depth_of_eight() {
    let mut files: Vec<(String, String)> = Vec::new();
    for n in 0..10 {
        let at = format!("sys/devices/virtual/block/dm-{n}");
        files.push((format!("sys/dev/block/253:{n}"), format!("-> ../../devices/virtual/block/dm-{n}")));
        files.push((format!("{at}/dev"), format!("253:{n}\n")));
        files.push((format!("{at}/dm/name"), "x\n".to_owned()));
        files.push((format!("{at}/slaves/dm-{}", n + 1), format!("-> ../../dm-{}", n + 1)));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
    let tree = Tree::with(&files);
    let mount = Mount { number: "253:0".parse().ok(), ..Mount::default() };
    let stack = under(&mount, &tree.join("sys"), &PathBuf::from("/nowhere")).unwrap();
    assert_eq!((stack.layers.len(), stack.cut_short), (8, true));
}

#[test]
fn a_disk_is_described() {
    let stack = stack_of("1 1 9:0 / / rw - ext4 /dev/md0 rw").unwrap();
    let [first, second] = &stack.disks[..] else { panic!("{:?}", stack.disks) };
    assert_eq!((first.layer, &*first.name), (1, "sda"));
    assert_eq!((first.vendor.as_deref(), first.model.as_deref()), (Some("Google"), Some("PersistentDisk")));
    assert_eq!((first.rotational, first.queue_depth), (Some(false), Some(256)));
    assert_eq!(first.scheduler.as_deref(), Some("mq-deadline"));
    assert_eq!(first.write_cache.as_deref(), Some("write back"));
    assert_eq!(first.cloud, Some("Google Cloud Persistent Disk"));
    assert_eq!((second.layer, second.vendor.as_deref(), second.rotational), (2, None, None));
    assert_eq!((second.queue_depth, second.cloud), (None, None));
}

#[test]
fn all_partitions_of_a_disk_are_watched() {
    let stack = stack_of("1 1 9:0 / / rw - ext4 /dev/md0 rw").unwrap();
    let devices: Vec<_> = stack.devices().iter().map(|device| (device.dev, device.layer)).collect();
    assert_eq!(devices, [(9 << 20, 0), (8 << 20, 1), (8 << 20 | 1, 1), (8 << 20 | 2, 1), (8 << 20 | 16, 2)]);
    let limitable: Vec<_> = stack.limitable().iter().map(ToString::to_string).collect();
    assert_eq!(limitable, ["9:0", "8:0", "8:16"]);
}

#[test]
fn a_stack_is_written_for_programs() {
    let json = serde_json::to_value(stack_of("1 1 7:0 / / rw - ext4 /dev/loop0 rw").unwrap()).unwrap();
    assert_eq!(
        json["layers"][0],
        serde_json::json!({"index": 0, "name": "loop0", "alias": "/srv/a disk.img", "kind": "loop", "number": "7:0"})
    );
    assert_eq!(json["disks"][1]["name"], "sdb");
}

#[test]
fn device_numbers_are_parsed() {
    let number = |text: &str| text.parse::<DeviceNumber>().ok().map(DeviceNumber::kernel);
    let cases = [
        ("8:1", Some(8 << 20 | 1)),
        ("259:3\n", Some(259 << 20 | 3)),
        ("8", None),
        ("8:x", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(number(text), expected, "{text:?}");
    }
}
