//! Runs every check and test, whatever fails on the way, and ends with one line that counts them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{cargo, run as run_command, text};
use crate::{compile, setup, tidy};

/// What one step came to.
struct Outcome {
    name: &'static str,
    took: Duration,
    passed: u64,
    failed: u64,
}

/// Tests that one or more libtest binaries ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

pub fn run(root: &Path, only: Option<&str>, times: u32) -> Result<()> {
    let setup = setup::run(setup::Scope::Everything)?;
    compile::all(&setup.toolchain)?;
    compile::guest(&setup)?;

    let mut outcomes = Vec::new();
    if only.is_none() {
        outcomes.push(check("fmt", || run_command(cargo().args(["fmt", "--all", "--check"]))));
        outcomes.push(check("tidy", tidy::run));
        outcomes.push(check("clippy", || {
            // As the tests are built, so that what runs while building is built once.
            let args = ["--workspace", "--all-targets", "--", "-D", "warnings"];
            run_command(compile::for_tests("clippy")?.args(args))
        }));
    }
    outcomes.push(tests("unit", times, || {
        // All packages are chosen both times, so that there is one set of features of what they depend on.
        let mut unit = compile::for_tests("test")?;
        unit.args(["--workspace", "--no-fail-fast", "--lib", "--bins", "--"]).args(only);
        Ok(unit)
    }));
    // These share one kernel and one disk, so they run one after the other.
    outcomes.push(tests("integration", times, || {
        let mut integration = compile::for_tests("test")?;
        integration
            .args(["--workspace", "--no-fail-fast", "--test", "*", "--", "--test-threads=1"])
            .args(only)
            .env("ETCD_DISK_PROBE_BIN", root.join(compile::BINARY))
            .env("ETCD_DISK_PROBE_CACHE", setup.cache_directory());
        Ok(integration)
    }));
    report(&mut outcomes, only.is_some())
}

/// Runs a step that counts as one.
fn check(name: &'static str, step: impl FnOnce() -> Result<()>) -> Outcome {
    let started = Instant::now();
    let failed = step().inspect_err(|error| eprintln!("xtask: {name}: {error:#}")).is_err();
    Outcome { name, took: started.elapsed(), passed: u64::from(!failed), failed: u64::from(failed) }
}

/// Runs a step that counts as its tests, this many times.
fn tests(name: &'static str, times: u32, command: impl Fn() -> Result<Command>) -> Outcome {
    let started = Instant::now();
    let mut sum = Count::default();
    for turn in 1..=times {
        let count = tests_once(name, command());
        sum.passed += count.passed;
        sum.failed += count.failed;
        if times > 1 {
            let Count { passed, failed } = count;
            println!("xtask: {name}: run {turn} of {times}: {passed} passed, {failed} failed");
        }
    }
    Outcome { name, took: started.elapsed(), passed: sum.passed, failed: sum.failed }
}

fn tests_once(name: &str, command: Result<Command>) -> Count {
    let (count, error) = match command.and_then(|mut command| Ok((stream(&mut command)?, text(&command)))) {
        Ok(((count, true), _)) => (count, None),
        Ok(((count, false), text)) => (count, Some(format!("cannot finish `{text}`"))),
        Err(error) => (Count::default(), Some(format!("{error:#}"))),
    };
    if let Some(error) = &error {
        eprintln!("xtask: {name}: {error}");
    }
    // What does not compile, or dies, has no test that failed.
    let failed = if error.is_some() { count.failed.max(1) } else { count.failed };
    Count { failed, ..count }
}

/// Passes the output of a test run through and counts what it says; also returns whether it succeeded.
fn stream(command: &mut Command) -> Result<(Count, bool)> {
    let text = text(command);
    eprintln!("+ {text}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{text}`"))?;
    let mut count = Count::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("cannot read what `{text}` prints"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some(more) = parse_result(&line) {
                count.passed += more.passed;
                count.failed += more.failed;
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot finish `{text}`"))?;
    Ok((count, status.success()))
}

/// Prints the summary; a step of tests that ran none has failed, unless a filter explains it.
fn report(outcomes: &mut [Outcome], filtered: bool) -> Result<()> {
    let ran_none = |outcome: &Outcome| outcome.passed + outcome.failed == 0;
    if !filtered || outcomes.iter().all(ran_none) {
        for outcome in outcomes.iter_mut().filter(|outcome| ran_none(outcome)) {
            eprintln!("xtask: {}: no test was run", outcome.name);
            outcome.failed = 1;
        }
    }
    println!();
    for Outcome { name, took, passed, failed } in outcomes.iter() {
        println!("{name:<12} {:>7.1} s  {passed:>4} passed {failed:>4} failed", took.as_secs_f64());
    }
    let passed: u64 = outcomes.iter().map(|outcome| outcome.passed).sum();
    let failed: u64 = outcomes.iter().map(|outcome| outcome.failed).sum();
    println!("\n{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("cannot call this tested: {failed} failed");
    }
    Ok(())
}

/// Reads libtest's closing line: `test result: ok. 3 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word))
            .and_then(|number| number.trim().parse().ok())
    };
    Some(Count { passed: number("passed")?, failed: number("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_libtest() {
        let tail = "1 ignored; 0 measured; 2 filtered out; finished in 0.01s";
        let cases = [
            (format!("test result: ok. 3 passed; 0 failed; {tail}"), Some((3, 0)), "all passed"),
            (format!("test result: FAILED. 2 passed; 1 failed; {tail}"), Some((2, 1)), "one failed"),
            ("test slot_edges ... ok".to_owned(), None, "the line of one test"),
            ("test result: ok".to_owned(), None, "a line that was cut"),
        ];
        for (line, expected, why) in cases {
            let expected = expected.map(|(passed, failed)| Count { passed, failed });
            assert_eq!(parse_result(&line), expected, "{why}");
        }
    }

    #[test]
    fn a_run_without_tests_fails() {
        let outcome = |passed, failed| Outcome { name: "unit", took: Duration::ZERO, passed, failed };
        let cases = [
            (vec![outcome(2, 0), outcome(1, 0)], false, true, "all passed"),
            (vec![outcome(2, 0), outcome(0, 1)], false, false, "one failed"),
            (vec![outcome(2, 0), outcome(0, 0)], false, false, "a step without tests tests nothing"),
            (vec![outcome(2, 0), outcome(0, 0)], true, true, "a filter may leave a step none"),
            (vec![outcome(0, 0), outcome(0, 0)], true, false, "a filter that matches nothing is a mistake"),
        ];
        for (mut outcomes, filtered, expected, why) in cases {
            assert_eq!(report(&mut outcomes, filtered).is_ok(), expected, "{why}");
        }
    }

    #[test]
    fn a_step_that_dies_counts_as_failed() {
        let outcome = tests("unit", 1, || Ok(Command::new("false")));
        assert_eq!((outcome.passed, outcome.failed), (0, 1));
    }

    #[test]
    fn what_is_repeated_is_added_up() {
        let line = "test result: ok. 3 passed; 1 failed; 0 ignored";
        let outcome = tests("unit", 10, || {
            let mut command = Command::new("echo");
            command.arg(line);
            Ok(command)
        });
        assert_eq!((outcome.passed, outcome.failed), (30, 10));
    }
}
