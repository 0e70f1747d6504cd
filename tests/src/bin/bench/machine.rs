//! The same benchmark in a virtual machine, which boots another kernel and has hooks that this one may lack.
//!
//! It is emulated: nanoseconds on a CPU are many more there, and the factor differs between instructions.
//! Compare within a table only.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;
use probe_tests::machine::vm::{self, BENCH, Programs, SHAPES, kernels};
use probe_tests::probe;
use serde_json::Value;

use crate::{JSON, Options};

/// The default divisor for the number of calls there.
const FEWER: u32 = 20;

/// Runs `calls` and `programs` there, prints the tables, and returns the machine's JSON.
pub fn run(options: &Options, name: &str) -> anyhow::Result<Value> {
    let all = kernels::recorded()?;
    let kernel = all.iter().find(|kernel| kernel.label() == name).with_context(|| {
        let names: Vec<_> = all.iter().map(vm::Kernel::label).collect();
        format!("cannot find Linux {name}; there are {}", names.join(", "))
    })?;
    let own = env::current_exe().context("cannot find this program")?;
    let programs = Programs {
        guest: own.with_file_name("guest"),
        probe: probe::binary()?,
        faulty_probe: own.with_file_name("faulty-probe"),
        etcd: kernels::etcd_for(kernel.architecture)?,
    };
    let shapes = env::var_os("ETCD_DISK_PROBE_SHAPES").map(PathBuf::from);
    let mut more = vec![(BENCH, own.as_path())];
    more.extend(shapes.as_deref().map(|shapes: &Path| (SHAPES, shapes)));
    let fewer = if options.fewer > 1 { options.fewer } else { FEWER }.to_string();
    let rounds = options.rounds.to_string();
    let words = ["calls", "programs", "--json", "-", "--rounds", &rounds, "--fewer", &fewer];
    let mut found = None;
    let preempt = options.preempt.as_deref();
    let ended = vm::bench(kernel, &programs, &more, preempt, &words, &mut |line| {
        if let Some((_, json)) = line.split_once(JSON) {
            found = serde_json::from_str(json).ok();
        } else {
            println!("{line}");
        }
    });
    ended.context("cannot measure in a virtual machine")?;
    found.context("cannot find the figures on the console of the machine")
}
