//! The system disk of the machine: Debian's systemd, a checkout of this project, and the few files that a
//! system needs.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

use super::{CHECKOUT, DOCUMENTATION, Programs, UNIT};
use crate::machine::command;
use crate::machine::vm::ETCD;

/// Two WAL segments take 128 MiB.
const DISK_MIB: u64 = 512;

/// Runs the steps and prints their reports on the console.
const GUEST_UNIT: &str = "\
[Unit]
Description=Tries the unit of etcd-disk-probe
Requires=basic.target
After=basic.target

[Service]
Type=exec
ExecStart=/usr/bin/guest systemd
StandardOutput=file:/dev/console
StandardError=file:/dev/console
";

/// etcd as a careful administrator runs it: as a separate user, whose files the probe does not own.
const ETCD_UNIT: &str = "\
[Unit]
Description=etcd

[Service]
Type=notify
DynamicUser=yes
StateDirectory=etcd
ExecStart=/usr/bin/etcd --name=of-systemd --data-dir=/var/lib/etcd --log-level=warn \\
    --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
";

/// Small files that every system has.
const FILES: [(&str, &str); 8] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/fstab", ""),
    ("etc/os-release", "ID=debian\n"),
    // Without this file systemd treats the boot as the first one and runs its first-boot setup.
    ("etc/machine-id", "3f2a5c0e8d6b4f1fa7c39e5d1b8a6c42\n"),
    ("etc/systemd/system/guest.service", GUEST_UNIT),
    ("etc/systemd/system/etcd.service", ETCD_UNIT),
];

/// Mount points and home directories.
const DIRECTORIES: [&str; 7] = ["proc", "sys", "dev", "run", "tmp", "root", "home"];

/// Creates the root directory and a file system from it.
pub fn write(root: &Path, disk: &Path, programs: &Programs) -> anyhow::Result<()> {
    command::run("cp", &[Path::new("--archive"), &programs.system, root])?;
    for name in DIRECTORIES {
        let path = root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    for (name, text) in FILES {
        let path = root.join(name);
        make_parent(&path)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    place(&programs.guest, &root.join("usr/bin/guest"))?;
    place(&programs.etcd, &root.join(ETCD.trim_start_matches('/')))?;
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("");
    let checkout = root.join(CHECKOUT.trim_start_matches('/'));
    place(&programs.probe, &checkout.join("target/release/etcd-disk-probe"))?;
    let default = UNIT.replace(".service", ".default");
    for name in
        [format!("deploy/systemd/{UNIT}"), format!("deploy/systemd/{default}"), DOCUMENTATION.to_owned()]
    {
        place(&project.join(&name), &checkout.join(&name))?;
    }
    let failed = || format!("cannot create {}", disk.display());
    File::create(disk).and_then(|file| file.set_len(DISK_MIB << 20)).with_context(failed)?;
    command::run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), Path::new("-d"), root, disk])?;
    Ok(())
}

/// Copies a file and keeps its execute permission.
fn place(from: &Path, to: &Path) -> anyhow::Result<()> {
    make_parent(to)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    let mode = fs::metadata(from).map(|about| about.permissions().mode()).unwrap_or_default();
    let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot change the mode of {}", to.display()))
}

fn make_parent(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().context("every file is in a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))
}
