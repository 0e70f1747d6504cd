//! Virtual machines that boot other kernels: each runs the requested cases and reports their results on its
//! console.

pub mod case;
pub mod documented;
mod initramfs;
pub mod kernels;
mod libraries;
mod qemu;
pub mod systemd;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use self::case::{Case, DONE, REPEATED, Report};
pub use self::kernels::{Architecture, Kernel};
use crate::machine::command;
use crate::machine::process;
use crate::machine::scratch::Scratch;

/// The time limit for all cases of a machine: ten times the longest time under emulation on two idle cores.
const LIMIT: Duration = Duration::from_hours(1);

/// A crash that emulated machines occasionally have while the kernel patches its own text. It is unrelated to
/// the probe.
const PATCHING: &str = "Oops: int3";

/// The number of console lines in a failure.
const TAIL_LINES: usize = 25;

/// Paths of the files in the guest's image.
pub const PROBE: &str = "/usr/bin/etcd-disk-probe";
pub const FAULTY_PROBE: &str = "/usr/bin/faulty-probe";
pub const ETCD: &str = "/usr/bin/etcd";
pub const DMSETUP: &str = "/usr/sbin/dmsetup";
pub const MODULES: &str = "/modules";
pub const BENCH: &str = "/usr/bin/bench";
pub const SHAPES: &str = "/usr/lib/shapes";

/// The kernel command-line parameter that makes the guest run [`BENCH`]; its value is the arguments,
/// separated by commas. Its name contains no dot, so the kernel passes it to init in the environment.
pub const BENCH_WORDS: &str = "bench_words";

/// The programs for a machine, built for its architecture.
#[derive(Clone, Debug)]
pub struct Programs {
    pub guest: PathBuf,
    pub probe: PathBuf,
    /// The build of the probe that can lose its hooks.
    pub faulty_probe: PathBuf,
    pub etcd: PathBuf,
}

/// The results of one machine.
#[derive(Debug, Default)]
pub struct Outcome {
    pub reports: Vec<Report>,
    /// Why cases without a report have none.
    pub broke: Option<String>,
    pub took: Duration,
    /// Whether it was booted a second time, see `PATCHING`.
    pub retried: bool,
}

/// Boots a kernel and runs these cases in it; `on_report` receives each report as it arrives.
pub fn run(kernel: &Kernel, programs: &Programs, cases: &[Case], on_report: &dyn Fn(&Report)) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome::default();
    match prepare(kernel, programs, &[]) {
        Ok(machine) => {
            boot_again_if_patching(cases, &mut outcome, &mut |rest, outcome| {
                machine.run(rest, on_report, outcome);
            });
        }
        Err(error) => outcome.broke = Some(format!("{error:#}")),
    }
    outcome.took = started.elapsed();
    outcome
}

/// Boots a kernel, with its default or another preemption model, and runs the benchmark in it; `on_line`
/// receives each line of the console.
///
/// # Errors
///
/// If the machine dies or does not finish.
pub fn bench(
    kernel: &Kernel,
    programs: &Programs,
    more: &[(&str, &Path)],
    preempt: Option<&str>,
    words: &[&str],
    on_line: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let machine = prepare(kernel, programs, more)?;
    let mut done = false;
    let mut take = |line: &str| {
        done |= line.ends_with(DONE);
        on_line(line);
    };
    let preempt = preempt.map(|model| format!("preempt={model} ")).unwrap_or_default();
    let command_line = format!("{preempt}{BENCH_WORDS}={}", words.join(","));
    qemu::boot(kernel, &machine.image, &machine.disks, &command_line, LIMIT, &mut take)?;
    if done { Ok(()) } else { bail!("the machine died") }
}

/// Boots once, and a second time for the remaining cases if the machine died of `PATCHING`; of nothing else.
fn boot_again_if_patching(
    cases: &[Case],
    outcome: &mut Outcome,
    boot: &mut dyn FnMut(&[Case], &mut Outcome),
) {
    boot(cases, outcome);
    if outcome.broke.as_ref().is_some_and(|why| why.contains(PATCHING)) {
        outcome.retried = true;
        outcome.broke = None;
        let rest: Vec<_> = cases.iter().filter(|case| outcome.report(case).is_none()).copied().collect();
        boot(&rest, outcome);
    }
}

impl Outcome {
    /// Returns the report of a case.
    pub fn report(&self, case: &Case) -> Option<&Report> {
        self.reports.iter().find(|report| report.case == *case)
    }
}

/// A machine that is ready to boot.
struct Machine<'a> {
    kernel: &'a Kernel,
    image: PathBuf,
    disks: Vec<PathBuf>,
    _scratch: Scratch,
}

fn prepare<'a>(
    kernel: &'a Kernel,
    programs: &Programs,
    more: &[(&str, &Path)],
) -> anyhow::Result<Machine<'a>> {
    let scratch = Scratch::on_disk("vm")?;
    let image = scratch.path().join("image");
    initramfs::write(&image, kernel, programs, more).context("cannot make the image of the machine")?;
    let disks = case::DISKS.map(|(name, make)| (scratch.path().join(name), make));
    for (path, make) in &disks {
        make_disk(path, make)?;
    }
    Ok(Machine { kernel, image, disks: disks.map(|(path, _)| path).into(), _scratch: scratch })
}

/// Creates a sparse file with a file system, which requires no root.
fn make_disk(path: &Path, make: &[&str]) -> anyhow::Result<()> {
    // xfs requires 300 MiB, and two WAL segments take 128.
    const MIB: u64 = 512;
    let failed = || format!("cannot make the disk {}", path.display());
    std::fs::File::create(path).and_then(|file| file.set_len(MIB << 20)).with_context(failed)?;
    let path = path.to_str().context("cannot use a path that is not UTF-8")?;
    command::run(make[0], &[&make[1..], &[path]].concat())?;
    Ok(())
}

impl Machine<'_> {
    /// Boots and reads the guest's output until it ends.
    fn run(&self, cases: &[Case], on_report: &dyn Fn(&Report), outcome: &mut Outcome) {
        let names: Vec<_> = cases.iter().map(ToString::to_string).collect();
        let mut console = String::new();
        let mut done = false;
        let mut take = |line: &str| {
            if let Some(report) = Report::parse(line) {
                on_report(&report);
                outcome.reports.push(report);
            }
            if let Some((_, repeated)) = line.split_once(REPEATED) {
                println!("{REPEATED}{}::{repeated}", self.kernel.label());
            }
            done |= line.ends_with(DONE);
            console.push_str(line);
            console.push('\n');
        };
        let command_line = format!("probe.cases={}", names.join(","));
        let ended = qemu::boot(self.kernel, &self.image, &self.disks, &command_line, LIMIT, &mut take);
        if let Err(error) = ended.and_then(|()| if done { Ok(()) } else { bail!("the machine died") }) {
            outcome.broke = Some(format!("{error:#}; {}", console_tail(&console)));
        }
    }
}

/// Returns the end of a console, preceded by the line with the reason if that is further up.
fn console_tail(console: &str) -> String {
    let reason = console.lines().find(|line| line.contains(PATCHING));
    let tail = process::last_lines(console, TAIL_LINES);
    format!(
        "{}the end of its console:\n    {tail}",
        reason.map(|line| format!("{line}; ")).unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason why each boot died, if it did.
    type Deaths<'a> = &'a [Option<&'a str>];

    #[test]
    fn only_the_death_that_emulation_causes_is_forgiven_and_only_once() {
        let cases: Vec<_> = case::all().take(3).collect();
        let oops = "Oops: int3: 0000 [#1] SMP";
        let deaths: [(Deaths, usize, bool, bool, &str); 5] = [
            (&[None], 3, false, false, "nothing happened"),
            (&[Some(oops), None], 3, true, false, "it died once, and the rest was run again"),
            (&[Some(oops), Some(oops)], 2, true, true, "it died twice"),
            (&[Some("Kernel panic - not syncing")], 1, false, true, "it died of something else"),
            (&[Some(oops), Some("Kernel panic")], 2, true, true, "of something else the second time"),
        ];
        for (deaths, reported, retried, broke, why) in deaths {
            let mut outcome = Outcome::default();
            let mut boots = deaths.iter();
            boot_again_if_patching(&cases, &mut outcome, &mut |rest, outcome| {
                let death = boots.next().unwrap_or_else(|| panic!("{why}: booted once too often"));
                // A machine that dies after it has finished one case.
                let reached = if death.is_some() { 1 } else { rest.len() };
                let report = |case: &Case| Report { case: *case, seconds: 0.0, result: Ok(String::new()) };
                outcome.reports.extend(rest[..reached].iter().map(report));
                outcome.broke = death.map(str::to_owned);
            });
            assert_eq!(boots.next(), None, "{why}: not booted often enough");
            assert_eq!((outcome.reports.len(), outcome.retried), (reported, retried), "{why}");
            assert_eq!(outcome.broke.is_some(), broke, "{why}");
        }
    }
}
