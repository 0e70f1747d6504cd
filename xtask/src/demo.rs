//! Shows the main job on a real etcd.

use std::path::Path;

use anyhow::Result;

use crate::process::{cargo, run as run_command};
use crate::{compile, setup};

pub fn run(root: &Path, args: &[String]) -> Result<()> {
    let setup = setup::run()?;
    compile::all(&setup.toolchain)?;
    let mut demo = cargo();
    demo.args(["run", "--release", "--package", "probe-tests", "--bin", "demo", "--", "--probe"])
        .arg(root.join(compile::BINARY))
        .arg("--etcd")
        .arg(setup.etcd()?)
        .args(args);
    run_command(&mut demo)
}
