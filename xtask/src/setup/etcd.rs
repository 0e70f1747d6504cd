//! The etcd versions that demo and tests run: Debian's packages, unpacked in the cache, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Scope;
use super::apt::{Apt, Architecture};
use super::cache::Cache;
use super::sources::{self, Source};
use crate::process::{capture, find};

/// Debian's suites, oldest first, and whether the tests require their etcd.
const SUITES: [(&str, bool); 3] = [("bookworm", true), ("trixie", true), ("sid", false)];

/// Lines of `SUITE VERSION`, or `SUITE -` for an optional one that was not available.
const RECORD: &str = "etcd-versions";

/// The suite whose etcd the demo runs, if no other is present.
const OF_DEMO: &str = "trixie";

/// Fetches the etcd versions that are missing: for the demo one, if there is none.
pub fn setup(cache: &Cache, scope: Scope) -> Result<()> {
    if scope == Scope::Demo && newest(cache).is_ok() {
        return Ok(());
    }
    let mut record = read_record(cache);
    let is_there = |version: &str| version == "-" || binary(cache, version).is_file();
    let missing: Vec<_> = SUITES
        .into_iter()
        .filter(|(suite, _)| scope != Scope::Demo || *suite == OF_DEMO)
        .filter(|(suite, _)| !record.iter().any(|(name, version)| name == suite && is_there(version)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !sources::is_debian() {
        if find("etcd").is_some() {
            println!(
                "setup: the etcd versions of the tests come from Debian only; the demo runs the one on PATH"
            );
            return Ok(());
        }
        bail!("cannot fetch etcd on this system; install etcd 3.4 or newer on PATH and try again");
    }
    let main = sources::of_this_system()?.swap_remove(0);
    for (suite, needed) in missing {
        let version = match fetch(cache, &main, suite) {
            Ok(version) => version,
            Err(error) if needed => {
                return Err(error.context(format!("cannot get the etcd of Debian {suite}")));
            }
            Err(error) => {
                println!(
                    "setup: continuing without the etcd of Debian {suite}, which is optional: {error:#}"
                );
                println!("setup: to try again, remove {}", cache.path(RECORD).display());
                "-".to_owned()
            }
        };
        record.retain(|(name, _)| name != suite);
        record.push((suite.to_owned(), version));
        let lines: Vec<_> = record.iter().map(|(suite, version)| format!("{suite} {version}")).collect();
        cache.write(RECORD, &(lines.join("\n") + "\n"))?;
    }
    Ok(())
}

/// Returns the etcd on PATH, or else the newest one in the cache.
pub fn newest(cache: &Cache) -> Result<PathBuf> {
    if let Some(path) = find("etcd") {
        return Ok(path);
    }
    let mut versions: Vec<_> = read_record(cache).into_iter().map(|(_, version)| version).collect();
    versions.retain(|version| binary(cache, version).is_file());
    versions.sort_by_key(|version| numbers(version));
    let version = versions.pop().context("cannot find an etcd; run `cargo xtask setup`")?;
    Ok(binary(cache, &version))
}

/// Unpacks the etcd of one suite and returns its version.
fn fetch(cache: &Cache, main: &Source, suite: &str) -> Result<String> {
    println!("setup: fetching the etcd of Debian {suite}");
    let source = Source { suite: suite.to_owned(), ..main.clone() };
    let apt = Apt::update(cache.path(&format!("apt-{suite}")), &[source], Architecture::Own)?;
    let candidate = apt.candidate("etcd-server")?.context("cannot find the package etcd-server")?;
    let version = upstream(&candidate).to_owned();
    let directory = cache.fill(&format!("etcd-{version}"), |partial| {
        apt.unpack(&["etcd-server".to_owned()], partial)?;
        verify(&partial.join("usr/bin/etcd"), &version)
    })?;
    println!("setup: etcd {version} is in {}", directory.display());
    Ok(version)
}

/// Unpacks the etcd of another architecture as `ARCHITECTURE/etcd-VERSION`, separate from the versions of
/// this system.
pub fn fetch_foreign(cache: &Cache, apt: &Apt, architecture: &str) -> Result<()> {
    let candidate = apt.candidate("etcd-server")?.context("cannot find the package etcd-server")?;
    let parent = cache.path(architecture);
    fs::create_dir_all(&parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let name = format!("{architecture}/etcd-{}", upstream(&candidate));
    cache.fill(&name, |partial| apt.unpack(&["etcd-server".to_owned()], partial))?;
    Ok(())
}

fn verify(binary: &Path, version: &str) -> Result<()> {
    let printed = capture(Command::new(binary).arg("--version"))?;
    if printed.lines().next() != Some(&format!("etcd Version: {version}")) {
        bail!("cannot use {}: its version is `{}`", binary.display(), printed.trim());
    }
    Ok(())
}

fn binary(cache: &Cache, version: &str) -> PathBuf {
    cache.path(&format!("etcd-{version}")).join("usr/bin/etcd")
}

fn read_record(cache: &Cache) -> Vec<(String, String)> {
    let text = fs::read_to_string(cache.path(RECORD)).unwrap_or_default();
    let pair = |line: &str| line.split_once(' ').map(|(suite, version)| (suite.into(), version.into()));
    text.lines().filter_map(pair).collect()
}

/// Returns etcd's version from Debian's: without epoch, repacking suffix and revision.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(['-', '+', '~']).next().unwrap_or(version)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_versions() {
        let cases = [
            ("3.4.23-4+b4", "3.4.23", "revision"),
            ("1:3.5.16-4", "3.5.16", "epoch"),
            ("3.5.30+ds-1", "3.5.30", "repacked"),
        ];
        for (version, expected, why) in cases {
            assert_eq!(upstream(version), expected, "{why}");
        }
    }

    #[test]
    fn versions_sort_by_number() {
        let mut versions = ["3.5.9", "3.5.30", "3.4.23"];
        versions.sort_by_key(|version| numbers(version));
        assert_eq!(versions, ["3.4.23", "3.5.9", "3.5.30"], "as text, 9 would follow 30");
    }
}
