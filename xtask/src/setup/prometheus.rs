//! The Prometheus and the Alertmanager of the tests: Debian's packages, unpacked in the cache and not
//! installed, as installation starts them as services.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Architecture};
use super::cache::Cache;
use super::sources;
use crate::process::{capture, find};

/// A package whose programs run without the rest of it.
struct Package {
    name: &'static str,
    /// The first one is called for its version.
    programs: [&'static str; 2],
}

const PACKAGES: [Package; 2] = [
    Package { name: "prometheus", programs: ["prometheus", "promtool"] },
    Package { name: "prometheus-alertmanager", programs: ["prometheus-alertmanager", "amtool"] },
];

/// Fetches missing packages: `PACKAGE-VERSION/usr/bin/PROGRAM`.
pub fn setup(cache: &Cache) -> Result<()> {
    let missing: Vec<_> = PACKAGES.iter().filter(|package| !package.is_there(cache)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !sources::is_debian() {
        let programs = missing.iter().flat_map(|package| package.programs).collect::<Vec<_>>().join(", ");
        bail!("cannot fetch {programs} on this system; put them on PATH and try again");
    }
    let apt = Apt::update(cache.path("apt-system"), &sources::of_this_system()?, Architecture::Own)?;
    missing.into_iter().try_for_each(|package| package.fetch(&apt, cache))
}

impl Package {
    fn fetch(&self, apt: &Apt, cache: &Cache) -> Result<()> {
        let Self { name, programs: [first, _] } = self;
        println!("setup: fetching Debian's {name}");
        let version = apt.candidate(name)?.with_context(|| format!("cannot find the package {name}"))?;
        let directory = cache.fill(&format!("{name}-{version}"), |partial| {
            apt.unpack(&[(*name).to_owned()], partial)?;
            capture(Command::new(partial.join("usr/bin").join(first)).arg("--version")).map(drop)
        })?;
        println!("setup: {name} {version} is in {}", directory.display());
        Ok(())
    }

    /// Returns whether all of its programs are in one directory of the cache, or on the `PATH`.
    fn is_there(&self, cache: &Cache) -> bool {
        let entries = fs::read_dir(cache.path("")).into_iter().flatten().flatten();
        let mut unpacked = entries.filter(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.starts_with(self.name) && !name.ends_with(".partial"))
        });
        unpacked.any(|entry| {
            self.programs.iter().all(|program| entry.path().join("usr/bin").join(program).is_file())
        }) || self.programs.iter().all(|program| find(program).is_some())
    }
}
