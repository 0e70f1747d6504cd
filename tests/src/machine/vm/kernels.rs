//! The kernels that `cargo xtask setup` downloaded into the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::etcd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    Amd64,
    Arm64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its series, such as 6.12.
    pub name: String,
    pub architecture: Architecture,
    /// The directory that contains `vmlinuz` and `modules`.
    pub directory: PathBuf,
}

impl Kernel {
    /// Returns its name in test names: the series, and the architecture if that is not the usual one.
    pub fn label(&self) -> String {
        match self.architecture {
            Architecture::Amd64 => self.name.clone(),
            Architecture::Arm64 => format!("{}-aarch64", self.name),
        }
    }

    /// Returns whether fentry programs can attach: on arm64 since Linux 6.4, with ftrace's direct calls
    /// (2aa6ac03516d), on x86-64 since 5.5.
    pub fn has_fentry(&self) -> bool {
        let mut numbers = self.name.split('.').flat_map(str::parse::<u32>);
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        version >= if self.architecture == Architecture::Arm64 { (6, 4) } else { (5, 5) }
    }
}

/// Returns all kernels, as setup recorded them.
pub fn recorded() -> anyhow::Result<Vec<Kernel>> {
    let cache = etcd::cache()?;
    let path = cache.join("kernels");
    let record = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}; `cargo xtask setup` fetches the kernels that these tests boot",
            path.display()
        )
    })?;
    let kernels = parse(&record, &cache)?;
    for kernel in &kernels {
        if !kernel.directory.join("vmlinuz").is_file() {
            bail!("cannot find Linux {} in {}; `cargo xtask setup` gets it", kernel.label(), cache.display());
        }
    }
    Ok(kernels)
}

/// Returns the etcd binary for this architecture.
pub fn etcd_for(architecture: Architecture) -> anyhow::Result<PathBuf> {
    match architecture {
        Architecture::Amd64 => etcd::find("3.5.16"),
        Architecture::Arm64 => {
            let folder = etcd::cache()?.join("arm64");
            let newest = etcd::installs(&folder).pop();
            let missing =
                || format!("cannot find an etcd in {}; `cargo xtask setup` gets it", folder.display());
            Ok(newest.with_context(missing)?.binary)
        }
    }
}

/// Parses lines of `NAME ARCHITECTURE DIRECTORY`.
fn parse(record: &str, cache: &Path) -> anyhow::Result<Vec<Kernel>> {
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let _wanted = words.next()?;
        let debian = words.next()?;
        let architecture = match debian {
            "amd64" => Architecture::Amd64,
            "arm64" => Architecture::Arm64,
            _ => return None,
        };
        // The directory contains the actual version; a rolling suite may have provided a later one than
        // requested.
        let directory = words.next()?;
        let version = directory.strip_prefix("linux-")?.strip_prefix(debian)?.strip_prefix('-')?;
        let mut numbers = version.split('.');
        let name = format!("{}.{}", numbers.next()?, numbers.next()?);
        Some(Kernel { name, architecture, directory: cache.join(directory) })
    };
    record
        .lines()
        .map(|line| parse(line).with_context(|| format!("cannot read `{line}` in the record of kernels")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let record = "5.10 amd64 linux-amd64-5.10.223-1\n6.1 arm64 linux-arm64-6.1.176-1\n";
        let kernels = parse(record, Path::new("/cache")).unwrap();
        let labels: Vec<_> = kernels.iter().map(Kernel::label).collect();
        assert_eq!(labels, ["5.10", "6.1-aarch64"]);
        assert_eq!(kernels[1].directory, Path::new("/cache/linux-arm64-6.1.176-1"));
        let later = parse("7.2 amd64 linux-amd64-7.3.1-1\n", Path::new("/cache")).unwrap();
        assert_eq!(later[0].name, "7.3", "the downloaded version, not the requested one");
        assert!(parse("5.10 amd64\n", Path::new("/cache")).is_err(), "a line cut short");
    }

    #[test]
    fn fentry_came_to_one_architecture_first() {
        let cases = [
            ("5.4", Architecture::Amd64, false),
            ("5.10", Architecture::Amd64, true),
            ("6.1", Architecture::Arm64, false),
            ("6.12", Architecture::Arm64, true),
        ];
        for (name, architecture, expected) in cases {
            let kernel = Kernel { name: name.to_owned(), architecture, directory: PathBuf::new() };
            assert_eq!(kernel.has_fentry(), expected, "{name} {architecture:?}");
        }
    }
}
