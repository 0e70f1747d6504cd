//! cargo-deny, which checks dependencies against `deny.toml`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use super::cache::Cache;
use super::install;

const CARGO_DENY: &str = "0.20.2";

/// Builds cargo-deny once, and returns the program.
pub fn setup(cache: &Cache) -> Result<PathBuf> {
    // Its default features include a git of its own; the one on PATH fetches the database.
    let programs = install::from_source(cache, "cargo-deny", CARGO_DENY, &["--no-default-features"])?;
    Ok(programs.join("cargo-deny"))
}

/// Returns whether the database of known vulnerabilities can be fetched: it is in no package registry.
pub fn fetch_advisories(program: &Path) -> bool {
    let mut fetch = Command::new(program);
    fetch.args(["fetch", "db"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    fetch.status().is_ok_and(|status| status.success())
}
