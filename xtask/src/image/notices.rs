//! The full licence texts of all linked parts, which most licences require to accompany a binary.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::parts::Parts;

/// The beginnings of the names of licence files, in capitals.
const BEGINNINGS: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// Returns every text once, after the names of the parts that it covers.
pub fn of(parts: &Parts) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut list = String::new();
    for part in parts.crates.iter().filter(|part| part.linked && part.package.source.is_some()) {
        let (name, version) = part.key();
        let _ = writeln!(list, "{name} {version}: {}", part.package.license.as_deref().unwrap_or_default());
        let directory = part.package.manifest_path.parent().context("a manifest is in a directory")?;
        for text in texts_in(directory.as_std_path())? {
            texts.entry(text).or_default().push(format!("{name} {version}"));
        }
    }
    for library in &parts.libraries {
        let _ = writeln!(list, "{} {}: {}", library.name, library.version, library.licence);
    }
    let mut whole = format!("etcd-disk-probe has in it, each under the licence beside it:\n\n{list}");
    for (text, whose) in texts {
        let rule = "-".repeat(80);
        // Writing to a string cannot fail.
        let _ = write!(whole, "\n{rule}\n{}:\n\n{}\n", whose.join(", "), text.trim_end());
    }
    Ok(whole)
}

fn texts_in(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let is_one = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        path.is_file() && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
    };
    let mut paths: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is_one(path)).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    paths.iter().map(read).collect()
}
