//! Every kernel, hook and file system: the cases that ran in virtual machines, as tests.
//!
//! They are planned from the kernels that setup has downloaded, so all cases of a machine that dies fail.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::vm::case::{self, Case, Kind, Report};
use probe_tests::machine::vm::{self, Architecture, Kernel, Outcome, Programs, documented, kernels};
use probe_tests::probe;

/// The number of concurrent machines; each is emulated by one thread.
const MACHINES: usize = 2;

/// A kernel and its cases.
struct Plan {
    kernel: Kernel,
    cases: Vec<Case>,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let plans = match plan(&arguments) {
        Ok(plans) => plans,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let outcomes = if arguments.list { Vec::new() } else { run_all(&plans) };
    let mut trials = Vec::new();
    for (index, Plan { kernel, cases }) in plans.iter().enumerate() {
        for &case in cases {
            let result = outcomes.get(index).map_or(Ok(()), |outcome| result_of(outcome, kernel, case));
            let trial = Trial::test(name(kernel, case), move || result);
            trials.push(trial.with_ignored_flag(!case::in_gate(kernel, case)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Returns the plans that the command line selects.
fn plan(arguments: &Arguments) -> anyhow::Result<Vec<Plan>> {
    let mut plans = Vec::new();
    for kernel in kernels::recorded()? {
        let mut cases = case::planned(&kernel);
        let is_ignored = |case| !case::in_gate(&kernel, case);
        let runs_ignored = arguments.include_ignored || arguments.ignored || arguments.list;
        cases.retain(|&case| {
            let trial = Trial::test(name(&kernel, case), || Ok(())).with_ignored_flag(is_ignored(case));
            (runs_ignored || !is_ignored(case)) && !arguments.is_filtered_out(&trial)
        });
        if !cases.is_empty() {
            plans.push(Plan { kernel, cases });
        }
    }
    if !arguments.list && !plans.is_empty() {
        let missing = requirements::missing(&[
            Need::Tool("qemu-system-x86_64", "qemu-system-x86"),
            Need::Tool("qemu-system-aarch64", "qemu-system-arm"),
            Need::Tool("mkfs.ext4", "e2fsprogs"),
            Need::Tool("mkfs.xfs", "xfsprogs"),
            Need::Tool("readelf", "binutils"),
        ]);
        if !missing.is_empty() {
            bail!("cannot boot virtual machines:\n  {}", missing.join("\n  "));
        }
    }
    Ok(plans)
}

fn name(kernel: &Kernel, case: Case) -> String {
    format!("{}::{case}", kernel.label())
}

/// Boots the kernels, some at a time, and prints reports as they arrive.
fn run_all(plans: &[Plan]) -> Vec<Outcome> {
    // The slowest first, which are the newest, so that no machine runs alone for long at the end.
    let mut order: Vec<usize> = (0..plans.len()).collect();
    order.sort_by_key(|index| (plans[*index].kernel.architecture == Architecture::Arm64, Reverse(*index)));
    let queue = Mutex::new(order.into_iter());
    let outcomes: Vec<_> = plans.iter().map(|_| Mutex::new(Outcome::default())).collect();
    thread::scope(|scope| {
        for _ in 0..MACHINES {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread panics while it holds the lock").next();
                    let Some(index) = next else { return };
                    let outcome = run(&plans[index]);
                    *outcomes[index].lock().expect("no thread panics while it holds the lock") = outcome;
                }
            });
        }
    });
    outcomes
        .into_iter()
        .map(|outcome| outcome.into_inner().expect("no thread panics while it holds the lock"))
        .collect()
}

fn run(Plan { kernel, cases }: &Plan) -> Outcome {
    let programs = match programs(kernel.architecture) {
        Ok(programs) => programs,
        Err(error) => return Outcome { broke: Some(format!("{error:#}")), ..Outcome::default() },
    };
    let on_report = |report: &Report| {
        let (Ok(detail) | Err(detail)) = &report.result;
        println!("{}: {:.1} s: {detail}", name(kernel, report.case), report.seconds);
    };
    let outcome = vm::run(kernel, &programs, cases, &on_report);
    println!("{}: {} cases in {:.0} s", kernel.label(), cases.len(), outcome.took.as_secs_f64());
    if outcome.retried {
        println!(
            "repeated: {}: attempt 1 of 2: it died while the kernel patched its own text (int3)",
            kernel.label()
        );
    }
    outcome
}

/// Returns the programs for a machine of this architecture.
fn programs(architecture: Architecture) -> anyhow::Result<Programs> {
    let etcd = kernels::etcd_for(architecture)?;
    let native = PathBuf::from(env!("CARGO_BIN_EXE_guest"));
    let own = if cfg!(target_arch = "aarch64") { Architecture::Arm64 } else { Architecture::Amd64 };
    if architecture == own {
        let faulty_probe = PathBuf::from(env!("CARGO_BIN_EXE_faulty-probe"));
        return Ok(Programs { guest: native, probe: probe::binary()?, faulty_probe, etcd });
    }
    if architecture == Architecture::Amd64 {
        bail!("cannot build for x86-64 on this machine; run the tests on one");
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/aarch64-unknown-linux-gnu");
    // All in the profile of the tests: the code that is shipped for aarch64, in a fifth of the time to build
    // it.
    let built = |name: &str| {
        let path = target.join("tests").join(name);
        let found = path.is_file().then_some(path.clone());
        found.with_context(|| format!("cannot find {}; `cargo xtask test` builds it", path.display()))
    };
    Ok(Programs {
        guest: built("guest")?,
        probe: built("etcd-disk-probe")?,
        faulty_probe: built("faulty-probe")?,
        etcd,
    })
}

fn result_of(outcome: &Outcome, kernel: &Kernel, case: Case) -> Result<(), Failed> {
    match (outcome.report(&case), &outcome.broke) {
        (Some(Report { result: Ok(found), .. }), _) if case.kind == Kind::Privileges => {
            let documented = documented::privileges(kernel, case.hook.as_str())?;
            if documented == *found {
                return Ok(());
            }
            Err(format!("starting requires {found}, but docs/kernels.md has {documented}").into())
        }
        (Some(Report { result: Ok(_), .. }), _) => Ok(()),
        (Some(Report { result: Err(detail), .. }), _) => Err(detail.as_str().into()),
        (None, Some(why)) => Err(why.as_str().into()),
        (None, None) => Err("the machine has not reported this case".into()),
    }
}
