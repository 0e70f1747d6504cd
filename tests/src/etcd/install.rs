//! The etcd versions on this machine, which `cargo xtask setup` unpacked into the cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// One etcd version, in `<cache>/etcd-<version>/usr/bin/etcd`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Install {
    pub version: String,
    pub binary: PathBuf,
}

/// Returns the binary of an etcd by its version or a prefix of it, such as `3.4`; the newest if several
/// match.
pub fn find(version: &str) -> anyhow::Result<PathBuf> {
    let cache = cache()?;
    let newest = installs(&cache).into_iter().rfind(|install| is_version(&install.version, version));
    let install = newest.with_context(|| {
        format!("cannot find etcd {version} in {}; `cargo xtask setup` gets it", cache.display())
    })?;
    Ok(install.binary)
}

/// Returns every etcd in a cache, the oldest version first.
pub fn installs(cache: &Path) -> Vec<Install> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix("etcd-")?.to_owned();
            let binary = entry.path().join("usr/bin/etcd");
            binary.is_file().then_some(Install { version, binary })
        })
        .collect();
    found.sort_by_key(|install| numbers(&install.version));
    found
}

/// Returns the cache directory of `cargo xtask setup`.
pub fn cache() -> anyhow::Result<PathBuf> {
    if let Some(cache) = env::var_os("ETCD_DISK_PROBE_CACHE") {
        return Ok(cache.into());
    }
    let home =
        env::home_dir().context("cannot find the cache: neither ETCD_DISK_PROBE_CACHE nor HOME is set")?;
    Ok(home.join(".cache/etcd-disk-probe"))
}

/// Returns whether `version` equals or continues `wanted`: 3.4.23 is a 3.4, 3.40 is not.
fn is_version(version: &str, wanted: &str) -> bool {
    version.strip_prefix(wanted).is_some_and(|rest| !rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn numbers(version: &str) -> Vec<u64> {
    version.split(|other: char| !other.is_ascii_digit()).flat_map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::scratch::Scratch;

    #[test]
    fn versions_match_by_whole_numbers() {
        let cases = [
            ("3.4.23", "3.4.23", true, "the very one"),
            ("3.4.23-4+b4", "3.4.23", true, "a packaging of it"),
            ("3.4.23", "3.4", true, "one of that series"),
            ("3.40.1", "3.4", false, "another series that begins alike"),
            ("3.4.23", "3.5", false, "another series"),
        ];
        for (version, wanted, expected, why) in cases {
            assert_eq!(is_version(version, wanted), expected, "{version} as {wanted}: {why}");
        }
    }

    #[test]
    fn a_cache_is_read_in_order_of_versions() {
        let scratch = Scratch::new(&env::temp_dir(), "install-test").unwrap();
        for folder in ["etcd-3.5.16/usr/bin", "etcd-3.5.9/usr/bin", "etcd-3.4.23", "bpf-linker/usr/bin"] {
            fs::create_dir_all(scratch.path().join(folder)).unwrap();
            if folder.ends_with("bin") {
                fs::write(scratch.path().join(folder).join("etcd"), "").unwrap();
            }
        }
        let versions: Vec<_> = installs(scratch.path()).into_iter().map(|install| install.version).collect();
        assert_eq!(versions, ["3.5.9", "3.5.16"], "by number, and only where there is a binary");
    }
}
