//! Switches to the system on a disk, as an initramfs does.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::vm::systemd::ROOT;
use rustix::mount::mount_move;
use rustix::process::{chdir, chroot};

use crate::machine::{load_modules, mount_at};

const NEW: &str = "/new";

/// The path in Debian's package, on a system whose `/lib` is a link.
const INIT: &str = "/usr/lib/systemd/systemd";

/// The time limit for the kernel to find its disk.
const DISK_LIMIT: Duration = Duration::from_mins(1);

/// Returns the disk on the kernel's command line: the kernel passes unknown parameters on in the environment.
pub fn disk() -> Option<String> {
    env::var(ROOT).ok()
}

/// Executes the init of the system there. Returns only on an error.
pub fn enter(disk: &str) -> anyhow::Result<()> {
    mount_at("devtmpfs", "devtmpfs", Path::new("/dev"))?;
    load_modules()?;
    let found = Cancel::default().wait_for(DISK_LIMIT, || Ok(Path::new(disk).exists().then_some(())))?;
    if found.is_none() {
        bail!("cannot find the disk {disk}");
    }
    mount_at("ext4", disk, Path::new(NEW))?;
    chdir(NEW).context("cannot enter the new root")?;
    // `pivot_root` does not work on the kernel's initial file system.
    mount_move(".", "/").context("cannot move the new root")?;
    chroot(".").context("cannot change the root")?;
    chdir("/").context("cannot enter the new root")?;
    Err(Command::new(INIT).env_remove(ROOT).exec()).with_context(|| format!("cannot become {INIT}"))
}
