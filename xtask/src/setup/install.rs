//! Tools in Rust that are built from the registry's source, once for each version, into the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::cache::Cache;
use crate::process::{cargo, run};

/// Builds a tool unless it is present, and returns the directory of its program.
pub fn from_source(cache: &Cache, name: &str, version: &str, features: &[&str]) -> Result<PathBuf> {
    let directory = format!("{name}-{version}");
    let programs = cache.path(&directory).join("bin");
    if !programs.join(name).is_file() {
        println!("setup: building {name} {version}, a minute or two");
        cache.fill(&directory, |partial| {
            run(command(name, version).args(features).arg("--root").arg(partial))
        })?;
    }
    Ok(programs)
}

/// Returns `cargo install` without optimisation: these tools run for seconds, and compile in half the time.
pub fn command(name: &str, version: &str) -> Command {
    let mut install = cargo();
    install.args(["install", "--quiet", "--locked", name, "--version", version]);
    install
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    install
}
