//! A machine that boots a real systemd from a disk and runs the steps that test the unit.

mod root_disk;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::case::{DONE, Report};
use super::{Kernel, PATCHING, console_tail, initramfs, qemu};
use crate::machine::scratch::Scratch;

/// The steps, in this order: each starts in the state that the previous one left.
pub const STEPS: [&str; 11] = [
    "boots",
    "is_installed_and_ready_when_systemctl_returns",
    "agrees_with_an_etcd_of_systemds",
    "agrees_with_one_in_another_network",
    "tells_its_status",
    "keeps_only_privileges_to_read",
    "takes_its_settings_from_the_default_file",
    "is_restarted_when_it_hangs",
    "is_not_restarted_when_only_somebody_can_help",
    "is_as_closed_as_its_documentation_says",
    "stops_is_removed_and_leaves_nothing",
];

/// The time limit for all steps.
const LIMIT: Duration = Duration::from_hours(1);

/// The directory in the guest with the project's checkout, as an operator has it; it contains these files.
pub const CHECKOUT: &str = "/usr/src/etcd-disk-probe";
pub const DOCUMENTATION: &str = "docs/systemd.md";

/// The unit under test, and the unit of etcd.
pub const UNIT: &str = "etcd-disk-probe.service";
pub const ETCD_UNIT: &str = "etcd.service";

/// The kernel command-line parameter that names the system disk to the guest's `/init`. With a dot in its
/// name the kernel would treat it as a module parameter and not pass it on.
pub const ROOT: &str = "probe_root";

/// The argument with which its unit starts the guest.
pub const WORD: &str = "systemd";

/// The programs for the machine.
#[derive(Clone, Debug)]
pub struct Programs {
    pub guest: PathBuf,
    pub probe: PathBuf,
    pub etcd: PathBuf,
    /// The root directory of Debian's systemd.
    pub system: PathBuf,
}

/// Boots the kernel and returns the report of each step; `on_report` receives each report as it arrives.
///
/// A machine that dies of `PATCHING` is booted a second time.
///
/// # Errors
///
/// If the machine dies, with the reports up to then.
pub fn run(
    kernel: &Kernel,
    programs: &Programs,
    on_report: &dyn Fn(&Report<String>),
) -> (Vec<Report<String>>, anyhow::Result<()>) {
    let mut reports = Vec::new();
    let ended = boot(kernel, programs, on_report, &mut reports);
    if ended.as_ref().is_err_and(|why| format!("{why:#}").contains(PATCHING)) {
        println!("booted twice: it died once while the kernel patched its own text (int3)");
        reports.clear();
        let ended = boot(kernel, programs, on_report, &mut reports);
        return (reports, ended);
    }
    (reports, ended)
}

fn boot(
    kernel: &Kernel,
    programs: &Programs,
    on_report: &dyn Fn(&Report<String>),
    reports: &mut Vec<Report<String>>,
) -> anyhow::Result<()> {
    let scratch = Scratch::on_disk("systemd")?;
    let at = |name: &str| scratch.path().join(name);
    initramfs::write_to_find_root(&at("image"), kernel, &programs.guest)
        .context("cannot make the first image")?;
    root_disk::write(&at("root"), &at("disk"), programs).context("cannot make the system of the machine")?;
    let command_line = format!("{ROOT}=/dev/vda systemd.unit=guest.service systemd.show_status=no");
    let mut console = String::new();
    let mut done = false;
    let mut take = |line: &str| {
        if let Some(report) = Report::parse(line) {
            on_report(&report);
            reports.push(report);
        }
        done |= line.ends_with(DONE);
        console.push_str(line);
        console.push('\n');
    };
    let ended = qemu::boot(kernel, &at("image"), &[at("disk")], &command_line, LIMIT, &mut take);
    if let Err(error) = ended.and_then(|()| if done { Ok(()) } else { bail!("the machine died") }) {
        return Err(error.context(console_tail(&console)));
    }
    Ok(())
}

/// Returns the root directory that `cargo xtask setup` placed in the cache.
///
/// # Errors
///
/// If it does not exist.
pub fn system(cache: &Path) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(cache).with_context(|| format!("cannot read {}", cache.display()))?;
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("systemd-")
            && path.join("usr/lib/systemd/systemd").is_file()
            && !name.ends_with(".partial")
    };
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_it).collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("cannot find systemd in {}; `cargo xtask setup` gets it", cache.display()))
}
