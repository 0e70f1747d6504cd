//! cargo-fuzz, which only `cargo xtask fuzz` needs.

use std::path::PathBuf;

use anyhow::Result;

use super::cache::Cache;
use super::{apt, install};
use crate::process::find;

const CARGO_FUZZ: &str = "0.13.2";

/// Builds cargo-fuzz once, and returns its directory. libFuzzer itself takes a C++ compiler.
pub fn setup(cache: &Cache) -> Result<PathBuf> {
    if find("c++").is_none() {
        apt::install(&["g++".to_owned()])?;
    }
    install::from_source(cache, "cargo-fuzz", CARGO_FUZZ, &[])
}
