//! The unit of deploy/systemd in a virtual machine that boots a real systemd: the report of each step, as
//! tests.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use probe_tests::etcd;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::vm::case::Report;
use probe_tests::machine::vm::systemd::{self, Programs, STEPS};
use probe_tests::machine::vm::{Architecture, kernels};
use probe_tests::probe;

/// The kernel of Debian 13, which most users of an etcd unit have or will have soon.
const KERNEL: &str = "6.12";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let is_selected = |name: &&str| !arguments.is_filtered_out(&Trial::test(*name, || Ok(())));
    let selected: Vec<&str> = STEPS.into_iter().filter(is_selected).collect();
    // All of them or none: each starts in the state that the previous one left.
    let outcome = if arguments.list || selected.is_empty() { None } else { Some(run()) };
    let trials = selected.into_iter().map(|name| {
        let result = outcome.as_ref().map_or(Ok(()), |outcome| result_of(outcome, name));
        Trial::test(name, move || result)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// The reports of the machine, and why it ended early.
type Outcome = (Vec<Report<String>>, anyhow::Result<()>);

fn run() -> Outcome {
    match prepare() {
        Ok((kernel, programs)) => systemd::run(&kernel, &programs, &|report| {
            let (Ok(detail) | Err(detail)) = &report.result;
            println!("{}: {:.1} s: {detail}", report.case, report.seconds);
        }),
        Err(error) => (Vec::new(), Err(error)),
    }
}

fn prepare() -> anyhow::Result<(kernels::Kernel, Programs)> {
    let missing = requirements::missing(&[
        Need::Root,
        Need::Tool("qemu-system-x86_64", "qemu-system-x86"),
        Need::Tool("mkfs.ext4", "e2fsprogs"),
        Need::Etcd("3.5.16"),
    ]);
    if !missing.is_empty() {
        bail!("cannot boot a machine with systemd:\n  {}", missing.join("\n  "));
    }
    let is_it =
        |kernel: &kernels::Kernel| kernel.name == KERNEL && kernel.architecture == Architecture::Amd64;
    let kernel = kernels::recorded()?.into_iter().find(is_it);
    let programs = Programs {
        guest: PathBuf::from(env!("CARGO_BIN_EXE_guest")),
        probe: probe::binary()?,
        etcd: kernels::etcd_for(Architecture::Amd64)?,
        system: systemd::system(&etcd::cache()?)?,
    };
    let missing = || format!("cannot find Linux {KERNEL} in the cache; `cargo xtask setup` gets it");
    Ok((kernel.with_context(missing)?, programs))
}

fn result_of((reports, ended): &Outcome, name: &str) -> Result<(), Failed> {
    match (reports.iter().find(|report| report.case == name), ended) {
        (Some(Report { result: Ok(_), .. }), _) => Ok(()),
        (Some(Report { result: Err(detail), .. }), _) => Err(detail.as_str().into()),
        (None, Err(why)) => Err(format!("{why:#}").into()),
        (None, Ok(())) => Err("the machine has not reported this step".into()),
    }
}
