//! The capabilities that this kernel requires, found by removing them; and the probe's errors on a
//! locked-down kernel.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use probe_tests::machine::scratch::{Scratch, Tracefs};
use probe_tests::machine::vm::PROBE;
use probe_tests::machine::vm::case::{Case, Hook};
use probe_tests::probe::Invocation;
use probe_tests::probe::least_privilege::{self, MissingCapability};

use crate::machine::Machine;

const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Returns the capabilities for starting, in the notation of docs/kernels.md.
pub fn privileges(case: Case, machine: &Machine) -> anyhow::Result<String> {
    let scratch = Scratch::new(&machine.disk(case.file_system), "privileges")?;
    let find = || least_privilege::needed_to_start(Path::new(PROBE), scratch.path(), case.hook.as_str());
    if case.hook == Hook::Tracepoint {
        let unmounted = find()?;
        let names: Vec<_> = unmounted.iter().map(|missed| missed.capability).collect();
        ensure!(names == ["CAP_SYS_ADMIN"], "without tracefs it requires {names:?}");
    }
    let tracefs = (case.hook == Hook::Tracepoint).then(Tracefs::mount).transpose()?;
    if case.hook == Hook::Tracepoint && number(PARANOID)? > 2 {
        // Debian's default. It does not restrict a process with CAP_SYS_ADMIN.
        let paranoid = find()?;
        let names: Vec<_> = paranoid.iter().map(|missed| missed.capability).collect();
        ensure!(names == ["CAP_SYS_ADMIN"], "with {PARANOID} above 2 it requires {names:?}");
        println!("guest: {}", paranoid[0].sentence);
        fs::write(PARANOID, "2").with_context(|| format!("cannot write {PARANOID}"))?;
    }
    let needed = find()?;
    drop(tracefs);
    for MissingCapability { capability, sentence } in &needed {
        println!("guest: without {capability}: {sentence}");
    }
    let names: Vec<_> = needed.iter().map(|missed| missed.capability).collect();
    Ok(names.join(", "))
}

fn number(path: &str) -> anyhow::Result<i64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    text.trim().parse().with_context(|| format!("cannot read the number in {path}"))
}

/// Locks the kernel down permanently: the last case of a machine.
pub fn locked_down(case: Case, machine: &Machine) -> anyhow::Result<String> {
    let scratch = Scratch::new(&machine.disk(case.file_system), "locked-down")?;
    fs::write(LOCKDOWN, "confidentiality").with_context(|| format!("cannot write {LOCKDOWN}"))?;
    let call = || Invocation::new(Path::new(PROBE), scratch.path());
    let mut stderr = String::new();
    for hook in ["fentry", "tracepoint", "auto"] {
        let check = call().arguments(&["--hook", hook, "--duration", "1s"]).start("check")?;
        let finished = check.wait(Duration::from_mins(2))?;
        ensure!(matches!(finished.code, Some(69 | 77)), "{hook}: {finished:?}");
        ensure!(finished.stderr.lines().count() == 1, "{hook}: one sentence: {finished:?}");
        // A hook that this kernel lacks is no evidence for the lockdown.
        let expected = if hook == "fentry" && !machine.has_fentry() { "cannot" } else { "locked down" };
        ensure!(finished.stderr.contains(expected), "{hook}: {finished:?}");
        finished.stderr.trim().clone_into(&mut stderr);
    }
    let doctor = call().arguments(&["--output", "json"]).start("doctor")?.wait(Duration::from_mins(2))?;
    ensure!(doctor.code != Some(0), "doctor calls this machine fit: {doctor:?}");
    ensure!(doctor.stdout.contains("lockdown=integrity"), "doctor does not name the fix: {doctor:?}");
    Ok(stderr.split_once("ERROR ").map_or(stderr.clone(), |(_, sentence)| sentence.to_owned()))
}
