//! The kernels that the tests boot: the image and a few modules of Debian's packages, in the cache.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Architecture};
use super::cache::Cache;
use super::etcd;
use super::modules;
use super::sources::{self, Source};
use crate::process::capture;

/// A kernel that the tests boot.
struct Kernel {
    /// The series. A rolling suite such as sid may have a later one, which is taken then.
    name: &'static str,
    /// Debian's name of it.
    architecture: &'static str,
    suite: &'static str,
}

/// Oldest first. A new kernel is one more line.
const KERNELS: [Kernel; 6] = [
    Kernel { name: "5.10", architecture: "amd64", suite: "bullseye" },
    Kernel { name: "6.1", architecture: "amd64", suite: "bookworm" },
    Kernel { name: "6.12", architecture: "amd64", suite: "trixie" },
    Kernel { name: "7.2", architecture: "amd64", suite: "sid" },
    Kernel { name: "6.1", architecture: "arm64", suite: "bookworm" },
    Kernel { name: "6.12", architecture: "arm64", suite: "trixie" },
];

/// Lines of `NAME ARCHITECTURE DIRECTORY`, from which the tests read the kernels to boot.
const RECORD: &str = "kernels";

/// Fetches missing kernels, and an etcd for each other architecture.
pub fn setup(cache: &Cache) -> Result<()> {
    let old = fs::read_to_string(cache.path(RECORD)).unwrap_or_default();
    let there = |kernel| recorded(&old, kernel).filter(|name| cache.path(name).is_dir());
    // Each kernel is recorded at once, as the next one may fail.
    let mut lines: Vec<_> = KERNELS.iter().map(|kernel| Some(line(kernel, there(kernel)?))).collect();
    for (n, kernel) in KERNELS.iter().enumerate() {
        if lines[n].is_none() {
            let Kernel { name, architecture, suite } = kernel;
            let directory = fetch(cache, kernel)
                .with_context(|| format!("cannot get Linux {name} for {architecture} of Debian {suite}"))?;
            lines[n] = Some(line(kernel, &directory));
        }
        let record: String = lines.iter().flatten().map(String::as_str).collect();
        if record != old {
            cache.write(RECORD, &record)?;
        }
    }
    Ok(())
}

/// Unpacks one kernel, keeps the files that a virtual machine needs, and returns the name of its directory.
fn fetch(cache: &Cache, kernel: &Kernel) -> Result<String> {
    if !sources::is_debian() {
        bail!(
            "cannot fetch kernels on this system: they come from Debian's archive; run the tests on Debian 12 or newer"
        );
    }
    let Kernel { name, architecture, suite } = kernel;
    println!("setup: fetching Linux {name} for {architecture} of Debian {suite}");
    let source = Source { suite: (*suite).to_owned(), ..sources::of_this_system()?.swap_remove(0) };
    let state = cache.path(&format!("apt-{suite}-{architecture}"));
    let apt = Apt::update(state, &[source], Architecture::Other(architecture))?;
    let (packages, version) = packages(&apt, kernel)?;
    let directory = format!("linux-{architecture}-{version}");
    cache.fill(&directory, |partial| {
        let unpacked = partial.join("unpacked");
        apt.unpack(&packages, &unpacked)?;
        fs::copy(image(&unpacked)?, partial.join("vmlinuz")).context("cannot copy the kernel")?;
        modules::keep(&unpacked, &partial.join("modules"))?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))
    })?;
    if !is_own(architecture)? {
        etcd::fetch_foreign(cache, &apt, architecture)?;
    }
    println!("setup: Linux {version} for {architecture} is in {}", cache.path(&directory).display());
    Ok(directory)
}

/// Returns the packages of the suite's newest kernel for clouds, as `NAME=VERSION`, and their version.
///
/// A suite has one package that depends on its newest kernel. Up to 6.12 a kernel is one package; later ones
/// have several: the image, its modules, and the lists of built-in modules.
fn packages(apt: &Apt, kernel: &Kernel) -> Result<(Vec<String>, String)> {
    let newest = format!("linux-image-cloud-{}", kernel.architecture);
    let version = apt.candidate(&newest)?.with_context(|| format!("cannot find the package {newest}"))?;
    let series = series(&version).with_context(|| format!("cannot find the series of Linux {version}"))?;
    if series != kernel.name {
        println!("setup: Debian {} has Linux {series}, which replaces {}", kernel.suite, kernel.name);
    }
    let mut found: Vec<String> = Vec::new();
    let mut queue = VecDeque::from([newest]);
    while let Some(package) = queue.pop_front() {
        for name in apt.depends(&package, &version)? {
            let is_part = name.starts_with("linux-") && name.contains(&format!("-{series}."));
            if is_part && !found.contains(&name) {
                found.push(name.clone());
                queue.push_back(name);
            }
        }
    }
    if found.is_empty() {
        bail!("cannot find the package of Linux {version}");
    }
    Ok((found.into_iter().map(|name| format!("{name}={version}")).collect(), version))
}

/// Returns the first two numbers of a version.
fn series(version: &str) -> Option<&str> {
    let (dot, _) = version.match_indices('.').nth(1)?;
    Some(&version[..dot])
}

/// Finds the image: in `boot` up to 6.12, next to the modules later.
fn image(unpacked: &Path) -> Result<PathBuf> {
    let is_image = |path: &Path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")) && path.is_file()
    };
    modules::files_below(unpacked)?
        .into_iter()
        .find(|path| is_image(path))
        .context("cannot find the kernel's image in its package")
}

fn is_own(architecture: &str) -> Result<bool> {
    Ok(capture(Command::new("dpkg").arg("--print-architecture"))?.trim() == architecture)
}

fn recorded<'a>(record: &'a str, kernel: &Kernel) -> Option<&'a str> {
    record.lines().find_map(|line| {
        let mut words = line.split(' ');
        let same = words.next()? == kernel.name && words.next()? == kernel.architecture;
        words.next().filter(|_| same)
    })
}

fn line(kernel: &Kernel, directory: &str) -> String {
    format!("{} {} {directory}\n", kernel.name, kernel.architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_versions() {
        let cases = [("5.10.223-1", Some("5.10")), ("7.2.13-1", Some("7.2")), ("7.3~rc1-1", None)];
        for (version, expected) in cases {
            assert_eq!(series(version), expected, "{version}");
        }
    }

    #[test]
    fn the_record_reads_back_as_written() {
        let record: String =
            KERNELS.iter().enumerate().map(|(n, kernel)| line(kernel, &format!("linux-{n}"))).collect();
        for (n, kernel) in KERNELS.iter().enumerate() {
            assert_eq!(recorded(&record, kernel), Some(format!("linux-{n}").as_str()), "{record}");
        }
        let unknown = Kernel { name: "6.1", architecture: "riscv64", suite: "sid" };
        assert_eq!(recorded(&record, &unknown), None, "the same series of another architecture");
    }
}
