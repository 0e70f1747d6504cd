//! The first and only program of a virtual machine: prepares it, runs the cases that the kernel's command
//! line names, reports each result, and switches the machine off.

mod bench;
mod blind;
mod disks;
mod exact;
mod machine;
mod refusals;
mod repeat;
mod root;
mod slow;
mod systemd;
mod trace;
mod verdict;

use std::any::Any;
use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::time::Instant;

use anyhow::Context;
use probe_tests::faults::probe_faults::ProbeFault;
use probe_tests::faults::worker::{WORD, Work};
use probe_tests::machine::vm::case::{Case, DONE, Kind, Report};
use probe_tests::machine::vm::systemd::WORD as OF_SYSTEMD;

use crate::machine::Machine;

fn main() -> anyhow::Result<()> {
    // Culprits are separate processes of this same program.
    let arguments: Vec<_> = env::args().skip(1).collect();
    if let Some((word, task)) = arguments.split_first()
        && word == WORD
    {
        return Work::parse(task).context("cannot be in the way")?.run();
    }
    // The program that systemd starts, once it runs.
    if arguments == [OF_SYSTEMD] {
        systemd::run();
        return Ok(());
    }
    let outcome = match (root::disk(), bench::words()) {
        (Some(disk), _) => root::enter(&disk),
        (None, Some(words)) => bench::run(&words),
        (None, None) => run(),
    };
    if let Err(error) = outcome {
        println!("guest: {error:#}");
    } else {
        println!("{DONE}");
    }
    machine::switch_off();
    Ok(())
}

fn run() -> anyhow::Result<()> {
    let machine = Machine::prepare()?;
    for case in machine.cases()? {
        let started = Instant::now();
        println!("guest: running {case}");
        // The harness panics if a metric is missing; the other cases continue.
        let result = panic::catch_unwind(AssertUnwindSafe(|| run_case(case, &machine)));
        let result = match result {
            Ok(result) => result.map_err(|error| format!("{error:#}")),
            Err(panic) => Err(message(panic.as_ref())),
        };
        println!("{}", Report { case, seconds: started.elapsed().as_secs_f64(), result }.line());
    }
    Ok(())
}

/// Returns the figures of a case that passed.
fn run_case(case: Case, machine: &Machine) -> anyhow::Result<String> {
    match case.kind {
        Kind::Exact => exact::exact(case, machine),
        Kind::Preempted => exact::preempted(case, machine),
        Kind::Chosen => exact::chosen(case, machine),
        Kind::Overwrites => slow::overwrites(case, machine),
        Kind::SlowWal => slow::wal(case, machine),
        Kind::Detached => blind::detect(ProbeFault::Detached, case, machine),
        Kind::Silenced => blind::detect(ProbeFault::FtraceDisabled, case, machine),
        Kind::Privileges => refusals::privileges(case, machine),
        Kind::DeviceSlow => verdict::device_slow(case, machine),
        Kind::FlushSlow => verdict::flush_slow(case, machine),
        Kind::IoThrottled => verdict::io_throttled(case, machine),
        Kind::CpuStarved => verdict::cpu_starved(case, machine),
        Kind::QueueSaturated => verdict::queue_saturated(case),
        Kind::LockedDown => refusals::locked_down(case, machine),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}
