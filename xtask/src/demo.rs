//! Shows the main job on a real etcd.

use std::path::Path;

use anyhow::Result;

use crate::process::run as run_command;
use crate::{compile, setup};

pub fn run(root: &Path, args: &[String]) -> Result<()> {
    let setup = setup::run(setup::Scope::Machine)?;
    compile::all(&setup.toolchain)?;
    let mut demo = compile::for_tests("run")?;
    demo.args(["--package", "probe-tests", "--bin", "demo", "--", "--probe"])
        .arg(root.join(compile::BINARY))
        .arg("--etcd")
        .arg(setup.etcd()?)
        .args(args);
    run_command(&mut demo)
}
