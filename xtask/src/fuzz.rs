//! Runs each fuzz target for some time. Ordinary tests replay the corpus of the repository.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, run as run_command};
use crate::setup;

/// The limits at which libFuzzer reports a hang or unbounded memory.
const LIMITS: [&str; 3] = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=65536"];

/// Runs one target, or all of them one after the other, each for this many seconds.
pub fn run(only: Option<&str>, seconds: u32) -> Result<()> {
    let targets = targets()?;
    if let Some(name) = only.filter(|name| !targets.iter().any(|target| target == name)) {
        bail!("cannot fuzz {name}: no such target; use one of {}", targets.join(", "));
    }
    let cargo_fuzz = setup::cargo_fuzz()?;
    for target in targets.iter().filter(|target| only.is_none_or(|only| only == *target)) {
        // New inputs are thousands of files, so they do not go to the corpus of the repository.
        let inputs = format!("target/fuzz/{target}");
        fs::create_dir_all(&inputs).with_context(|| format!("cannot create {inputs}"))?;
        let mut fuzz = cargo();
        fuzz.arg("fuzz").args(["run", "--fuzz-dir", "fuzz", target, &inputs]);
        fuzz.arg(format!("fuzz/corpus/{target}")).arg("--").args(LIMITS);
        fuzz.arg(format!("-max_total_time={seconds}"));
        // The flags of sanitizers are unstable; the pinned compiler accepts them so.
        fuzz.env("RUSTC_BOOTSTRAP", "1").env("PATH", path_with(&cargo_fuzz)?);
        run_command(&mut fuzz).with_context(|| {
            format!("{target} failed on an input in fuzz/artifacts/{target}; fix the cause and move the input to fuzz/corpus/{target}")
        })?;
    }
    Ok(())
}

/// Returns the names of all targets: the names of their files.
fn targets() -> Result<Vec<String>> {
    let directory = "fuzz/fuzz_targets";
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {directory}"))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut names: Vec<String> =
        paths.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}

/// Returns the search path, where cargo finds its subcommands, with this directory first.
fn path_with(directory: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = [directory.to_owned()].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(all).context("cannot put cargo-fuzz on the search path")
}
