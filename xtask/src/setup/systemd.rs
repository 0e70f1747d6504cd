//! The system that a virtual machine boots to test the unit: Debian's systemd and its dependencies, unpacked
//! in the cache and not installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Architecture};
use super::cache::Cache;
use super::sources;
use crate::process::run;

/// The package that the directory is named after.
const PACKAGE: &str = "systemd";

/// With the packages for a shell and for the documented commands.
const PACKAGES: [&str; 4] = [PACKAGE, "coreutils", "dash", "mount"];

/// Directories that no test needs.
const NEEDLESS: [&str; 5] =
    ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/perl5"];

/// Directories that are links into `usr` on a current system, although packages have files in them.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Fetches `systemd-VERSION`, the root directory of a system, if it is missing.
pub fn setup(cache: &Cache) -> Result<()> {
    if is_there(cache) {
        return Ok(());
    }
    if !sources::is_debian() {
        bail!(
            "cannot fetch systemd on this system: it comes from Debian's archive; run the tests on Debian 12 or newer"
        );
    }
    println!("setup: fetching Debian's systemd, for a virtual machine that boots it");
    let apt = Apt::update(cache.path("apt-system"), &sources::of_this_system()?, Architecture::Own)?;
    let version = apt.candidate(PACKAGE)?.context("cannot find the package systemd")?;
    let packages = apt.closure(&PACKAGES)?;
    let name = format!("{PACKAGE}-{version}");
    let directory = cache.fill(&name, |partial| {
        apt.unpack(&packages, partial)?;
        for name in MERGED {
            merge(partial, name)?;
        }
        for path in NEEDLESS.map(|path| partial.join(path)).iter().filter(|path| path.is_dir()) {
            fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
        let init = partial.join("usr/lib/systemd/systemd");
        if init.is_file() { Ok(()) } else { bail!("cannot find {}", init.display()) }
    })?;
    println!(
        "setup: systemd {version} and {} packages with it are in {}",
        packages.len() - 1,
        directory.display()
    );
    Ok(())
}

/// Moves the contents of a directory of the root into `usr`, and leaves a link.
fn merge(root: &Path, name: &str) -> Result<()> {
    let (directory, real) = (root.join(name), root.join("usr").join(name));
    let failed = || format!("cannot move {} to {}", directory.display(), real.display());
    fs::create_dir_all(&real).with_context(failed)?;
    if directory.is_dir() {
        run(Command::new("cp").arg("--archive").arg(directory.join(".")).arg(&real))?;
        fs::remove_dir_all(&directory).with_context(failed)?;
    }
    symlink(Path::new("usr").join(name), &directory).with_context(failed)
}

fn is_there(cache: &Cache) -> bool {
    let entries = fs::read_dir(cache.path("")).into_iter().flatten().flatten();
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.any(|name| name.starts_with("systemd-") && !name.ends_with(".partial"))
}
