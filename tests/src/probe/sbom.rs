//! An SBOM, and the crates that a binary itself reveals.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// The path of a registry's crates in a binary.
const REGISTRY: &[u8] = b"/cargo/registry/src/";

pub fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// Returns the components with this scope, as `name version`.
pub fn parts(sbom: &Value, scope: &str) -> BTreeSet<String> {
    let all = sbom["components"].as_array().into_iter().flatten().chain([&sbom["metadata"]["component"]]);
    let named = all.filter(|part| part["scope"] == scope).filter_map(|part| {
        // The program's name differs from its crate's: `pkg:cargo/aya@0.14.0`, `pkg:github/…/…@…#probe-user`.
        let last = part["purl"].as_str()?.split(['/', '#']).next_back()?;
        Some(format!("{} {}", last.split('@').next()?, part["version"].as_str()?))
    });
    named.collect()
}

/// Returns the crates whose source paths a binary contains (a panic reports its location), as `name version`.
pub fn sources(binary: &[u8]) -> BTreeSet<String> {
    let starts = binary.windows(REGISTRY.len()).enumerate().filter(|(_, window)| *window == REGISTRY);
    let names = starts.filter_map(|(at, _)| {
        let path = &binary[at + REGISTRY.len()..(at + 200).min(binary.len())];
        named(&String::from_utf8_lossy(path.split(|byte| *byte == b'/').nth(1)?))
    });
    names.collect()
}

/// Parses `serde-saphyr-2.1.1`: the version begins with the first number.
fn named(directory: &str) -> Option<String> {
    let is_number = |at: &usize| directory[at + 1..].starts_with(|first: char| first.is_ascii_digit());
    let cut = directory.match_indices('-').map(|(at, _)| at).find(is_number)?;
    Some(format!("{} {}", &directory[..cut], &directory[cut + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_names_crates_by_their_directories() {
        let binary = b"\0/cargo/registry/src/index-1949/serde-saphyr-2.1.1/src/lib.rs/cargo/registry/src/index-1949/rustix-1.1.6+a/src\
            /rust/library/core/src/lib.rs/cargo/registry/src/";
        let expected = ["serde-saphyr 2.1.1", "rustix 1.1.6+a"].map(str::to_owned);
        assert_eq!(sources(binary), expected.into());
    }
}
