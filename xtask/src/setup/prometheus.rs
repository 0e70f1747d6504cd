//! The Prometheus that the tests have scrape the probe: Debian's package, unpacked in the cache, never installed, for that
//! would start it as a service.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Architecture};
use super::cache::Cache;
use super::sources;
use crate::process::{capture, find};

const PACKAGE: &str = "prometheus";

const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Fetches it, if it is missing: `prometheus-VERSION/usr/bin/{prometheus,promtool}`.
pub fn setup(cache: &Cache) -> Result<()> {
    if is_there(cache) || PROGRAMS.iter().all(|program| find(program).is_some()) {
        return Ok(());
    }
    if !sources::is_debian() {
        bail!("cannot fetch Prometheus on this system; put prometheus and promtool on PATH and try again");
    }
    println!("setup: fetching Debian's Prometheus");
    let apt = Apt::update(cache.path("apt-system"), &sources::of_this_system()?, Architecture::Own)?;
    let version = apt.candidate(PACKAGE)?.context("cannot find the package prometheus")?;
    let directory = cache.fill(&format!("{PACKAGE}-{version}"), |partial| {
        apt.unpack(&[PACKAGE.to_owned()], partial)?;
        capture(Command::new(partial.join("usr/bin/prometheus")).arg("--version")).map(drop)
    })?;
    println!("setup: Prometheus {version} is in {}", directory.display());
    Ok(())
}

fn is_there(cache: &Cache) -> bool {
    let entries = fs::read_dir(cache.path("")).into_iter().flatten().flatten();
    let mut packages = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with("prometheus-") && !name.ends_with(".partial"))
    });
    packages.any(|entry| PROGRAMS.iter().all(|program| entry.path().join("usr/bin").join(program).is_file()))
}
