//! The system that a virtual machine boots to try the unit: Debian's systemd and all that it depends on, unpacked in the cache,
//! never installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Architecture};
use super::cache::Cache;
use super::sources;
use crate::process::run;

/// What gives the version its name.
const PACKAGE: &str = "systemd";

/// Beside it what the documented commands and a shell take.
const PACKAGES: [&str; 4] = [PACKAGE, "coreutils", "dash", "mount"];

/// What no machine reads.
const NEEDLESS: [&str; 5] =
    ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/perl5"];

/// Directories that are links into `usr` on a system of today, whatever its packages say.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Fetches it, if it is missing: `systemd-VERSION`, the root directory of a system.
pub fn setup(cache: &Cache) -> Result<()> {
    if is_there(cache) {
        return Ok(());
    }
    if !sources::is_debian() {
        bail!(
            "cannot fetch systemd on this system: it comes from Debian's archive; run the tests on Debian 12 or newer"
        );
    }
    println!("setup: fetching Debian's systemd, for a machine that boots it");
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

/// Moves what is in a directory of the root to where it belongs, and leaves a link.
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
