//! The Python environment with Helm and the Kubernetes schemas.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::etcd;

/// Returns the interpreter that `cargo xtask setup` installed.
pub fn find() -> anyhow::Result<PathBuf> {
    let cache = etcd::cache()?;
    let entries = fs::read_dir(&cache).into_iter().flatten().flatten();
    let mut made: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("python-"))
        .map(|entry| entry.path().join("bin/python"))
        .filter(|path| path.is_file() && !path.to_string_lossy().contains(".partial/"))
        .collect();
    made.sort();
    made.pop().with_context(|| {
        format!("cannot find Helm for Python in {}; `cargo xtask setup` gets it", cache.display())
    })
}

/// Runs a script of this workspace with one JSON value as input and returns its output.
pub fn run(script: &Path, arguments: &[&str], input: &Value) -> anyhow::Result<String> {
    // No bytecode next to sources that git tracks.
    let mut child = Command::new(find()?)
        .arg("-B")
        .arg(script)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start Python")?;
    let mut stdin = child.stdin.take().context("its input is a pipe")?;
    stdin.write_all(input.to_string().as_bytes()).context("cannot write to Python")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for Python")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("cannot run {}: {}: {}", script.display(), output.status, said.trim());
    }
    String::from_utf8(output.stdout).context("cannot decode the output of Python")
}
