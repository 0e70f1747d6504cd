//! The standard library for aarch64, of the same compiler that builds for this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Architecture};
use super::cache::Cache;
use super::sources;
use crate::process::{capture, clean, find, run};

pub const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Returns the directory of the library, if the compiler does not find it by itself.
pub fn setup(cache: &Cache) -> Result<Option<PathBuf>> {
    let directory = capture(clean("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    if Path::new(directory.trim()).is_dir() {
        return Ok(None);
    }
    if find("rustup").is_some() && capture(clean("rustup").args(["show", "active-toolchain"])).is_ok() {
        println!("setup: adding the standard library of {TARGET}");
        run(clean("rustup").args(["target", "add", TARGET]))?;
        return Ok(None);
    }
    debian(cache).context("cannot get the standard library for aarch64").map(Some)
}

/// Unpacks the library of Debian's compiler: the package of the other architecture, in the installed version.
fn debian(cache: &Cache) -> Result<PathBuf> {
    let mut query = clean("dpkg-query");
    let version = capture(query.args(["--show", "--showformat", "${Version}", "rustc-web"]))?;
    if version.is_empty() {
        bail!(
            "the compiler is neither from rustup nor from Debian; `rustup target add {TARGET}` helps where there is rustup"
        );
    }
    let name = format!("rust-aarch64-{version}");
    let library = Path::new("usr/lib/rustlib").join(TARGET).join("lib");
    if !cache.path(&name).is_dir() {
        println!("setup: unpacking the standard library of Debian's rustc {version} for aarch64");
        let state = cache.path("apt-system-arm64");
        let apt = Apt::update(state, &sources::of_this_system()?, Architecture::Other("arm64"))?;
        cache.fill(&name, |partial| apt.unpack(&[format!("libstd-rust-web-dev={version}")], partial))?;
    }
    Ok(cache.path(&name).join(library))
}
