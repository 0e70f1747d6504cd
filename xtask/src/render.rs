//! The manifests for clusters without Helm: the chart as Helm renders it, called from `helm.py`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::run as run_command;

/// Writes `deploy/manifests/PRESET.yaml` for each preset of the chart. A test fails when they are out of
/// date.
pub fn run(python: &Path) -> Result<()> {
    let paths = ["xtask/helm.py", "deploy/chart/etcd-disk-probe", "deploy/manifests"];
    run_command(Command::new(python).args(paths))
}
