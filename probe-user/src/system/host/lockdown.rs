//! Kernel lockdown: restrictions that apply even to root (`security/lockdown/lockdown.c`, Linux 5.4).

use std::{fs, path::Path};

use procfs::process::MountInfo;
use serde::Serialize;

use super::private_mount;

const SECURITYFS: &str = "sys/kernel/security";

/// The kernel's lockdown level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// Built without lockdown, or off.
    None,
    /// No process can modify the running kernel. Reading its memory and tracing stay allowed.
    Integrity,
    /// No process can read the kernel's memory either: no tracing program, no tracefs, no perf event (enum
    /// `lockdown_reason` in include/linux/security.h).
    Confidentiality,
    /// securityfs, which contains the level, is not mounted.
    Unknown,
}

impl Lockdown {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
            Self::Unknown => "unknown",
        }
    }
}

/// Returns the level that securityfs reports.
pub(super) fn read(root: &Path, mounts: &[MountInfo]) -> Lockdown {
    let mounted = mounts.iter().any(|mount| mount.fs_type == "securityfs");
    match fs::read_to_string(root.join(SECURITYFS).join("lockdown")) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && mounted => Lockdown::None,
        Err(_) => Lockdown::Unknown,
    }
}

/// Returns the level on a host where securityfs is not mounted, if this process is permitted to mount it for
/// itself.
pub(super) fn read_unmounted() -> Lockdown {
    let at = Path::new("/").join(SECURITYFS);
    private_mount::with("securityfs", &at, || match fs::read_to_string(at.join("lockdown")) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Lockdown::None,
        Err(_) => Lockdown::Unknown,
    })
    .unwrap_or(Lockdown::Unknown)
}

/// Parses `none [integrity] confidentiality`: the level in brackets is active.
fn parse(text: &str) -> Lockdown {
    let level = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(level, _)| level);
    match level {
        Some("none") => Lockdown::None,
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        _ => Lockdown::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_in_brackets_counts() {
        let cases = [
            ("[none] integrity confidentiality\n", Lockdown::None, "off"),
            ("none [integrity] confidentiality\n", Lockdown::Integrity, "secure boot of most distributions"),
            ("none integrity [confidentiality]\n", Lockdown::Confidentiality, "the highest level"),
            ("none integrity confidentiality\n", Lockdown::Unknown, "no level is marked"),
            ("none [paranoia]\n", Lockdown::Unknown, "an unknown level"),
            ("", Lockdown::Unknown, "empty"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(parse(text), expected, "{why}");
        }
    }
}
