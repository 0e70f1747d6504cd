//! Runs the probe on a real etcd under load and prints its report.

use std::path::Path;
use std::thread;

use anyhow::Result;

use crate::process::{clean, run as run_command};
use crate::{compile, setup};

/// Builds the daemon and the demo, quickly rather than as shipped, and runs the demo.
///
/// On a machine without the eBPF toolchain everything that does not need the kernel programs is compiled
/// while the toolchain is fetched and built: both take about as long.
pub fn run(root: &Path, args: &[String]) -> Result<()> {
    let setup = thread::scope(|scope| {
        if !compile::has_programs() {
            scope.spawn(compile::demo_dependencies);
        }
        let setup = setup::run(setup::Scope::Demo)?;
        compile::ebpf(&setup.toolchain)?;
        Ok::<_, anyhow::Error>(setup)
    })?;
    let built = compile::demo()?;
    run_command(
        clean(root.join(&built).join("demo"))
            .arg("--probe")
            .arg(root.join(&built).join("etcd-disk-probe"))
            .arg("--etcd")
            .arg(setup.etcd()?)
            .args(args),
    )
}
