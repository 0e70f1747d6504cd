//! Loads the programs that the probe's are compared with: `probe-ebpf/src/bin/shapes.rs`.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use aya::programs::Program;
use aya::{Btf, Ebpf};
use probe_user::kernel::Hook;

/// Their system calls.
const CALLS: [&str; 3] = ["write", "pwrite64", "fdatasync"];

/// Attaches the programs with that prefix, exits first as the probe does.
pub fn attach(object: &Path, prefix: &str, hook: Hook) -> anyhow::Result<Ebpf> {
    let bytes = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut ebpf = Ebpf::load(&bytes).context("cannot create the maps of the programs")?;
    let btf = if hook == Hook::Fentry { Some(Btf::from_sys_fs()?) } else { None };
    let sides = if hook == Hook::Fentry { ["fexit", "fentry"] } else { ["sys_exit", "sys_enter"] };
    let architecture = if cfg!(target_arch = "aarch64") { "__arm64" } else { "__x64" };
    for side in sides {
        for call in CALLS {
            let name = format!("{prefix}_{side}_{call}");
            let program = ebpf.program_mut(&name).with_context(|| format!("cannot find {name}"))?;
            let function = format!("{architecture}_sys_{call}");
            match (program, &btf) {
                (Program::TracePoint(program), _) => {
                    program.load()?;
                    program.attach("syscalls", &format!("{side}_{call}"))?;
                }
                (Program::FEntry(program), Some(btf)) => {
                    program.load(&function, btf)?;
                    program.attach()?;
                }
                (Program::FExit(program), Some(btf)) => {
                    program.load(&function, btf)?;
                    program.attach()?;
                }
                _ => bail!("cannot attach {name}"),
            }
        }
    }
    Ok(ebpf)
}
