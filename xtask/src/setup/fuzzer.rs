//! cargo-fuzz, which only `cargo xtask fuzz` needs.

use std::path::PathBuf;

use anyhow::Result;

use super::{apt, cache::Cache};
use crate::process::{cargo, find, run};

const CARGO_FUZZ: &str = "0.13.2";

/// Builds cargo-fuzz once, and returns the directory that it is in. libFuzzer itself takes a C++ compiler.
pub fn setup(cache: &Cache) -> Result<PathBuf> {
    if find("c++").is_none() {
        apt::install(&["g++".to_owned()])?;
    }
    let name = format!("cargo-fuzz-{CARGO_FUZZ}");
    if !cache.path(&name).join("bin/cargo-fuzz").is_file() {
        println!("setup: building cargo-fuzz {CARGO_FUZZ}, a minute or two");
        cache.fill(&name, |partial| {
            let install = ["install", "--quiet", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ, "--root"];
            run(cargo().args(install).arg(partial))
        })?;
    }
    Ok(cache.path(&name).join("bin"))
}
