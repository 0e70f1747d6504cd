//! Steps of a check: each runs also after another one has failed, and a summary counts them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::text;

/// How a test starts the line that reports another attempt; `tests/src/faults/attempts.rs` prints it.
const REPEATED: &str = "repeated: ";

/// The result of one step.
#[derive(Debug)]
pub struct Outcome {
    pub name: &'static str,
    pub took: Duration,
    pub count: Count,
    /// Lines for the summary, such as a check that was not possible.
    pub remarks: Vec<String>,
}

/// Tests that one or more test binaries ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    /// A line for each attempt that was disturbed and repeated.
    pub repeated: Vec<String>,
}

/// Runs a step that counts as one.
pub fn check(name: &'static str, step: impl FnOnce() -> Result<()>) -> Outcome {
    checked(name, || step().map(|()| Vec::new()))
}

/// Runs a step that counts as one and returns remarks.
pub fn checked(name: &'static str, step: impl FnOnce() -> Result<Vec<String>>) -> Outcome {
    let started = Instant::now();
    let result = step().inspect_err(|error| eprintln!("xtask: {name}: {error:#}"));
    let (passed, failed) = if result.is_ok() { (1, 0) } else { (0, 1) };
    let count = Count { passed, failed, repeated: Vec::new() };
    Outcome { name, took: started.elapsed(), count, remarks: result.unwrap_or_default() }
}

/// Runs a step that counts as its tests, this many times.
pub fn tests(name: &'static str, times: u32, command: impl Fn() -> Result<Command>) -> Outcome {
    let started = Instant::now();
    let mut sum = Count::default();
    for run in 1..=times {
        let Count { passed, failed, repeated } = tests_once(name, command());
        if times > 1 {
            println!("xtask: {name}: run {run} of {times}: {passed} passed, {failed} failed");
        }
        sum.passed += passed;
        sum.failed += failed;
        sum.repeated.extend(repeated);
    }
    Outcome { name, took: started.elapsed(), count: sum, remarks: Vec::new() }
}

fn tests_once(name: &str, command: Result<Command>) -> Count {
    let (mut count, error) = match command.and_then(|mut command| Ok((stream(&mut command)?, text(&command))))
    {
        Ok(((count, true), _)) => (count, None),
        Ok(((count, false), text)) => (count, Some(format!("cannot finish `{text}`"))),
        Err(error) => (Count::default(), Some(format!("{error:#}"))),
    };
    if let Some(error) = error {
        eprintln!("xtask: {name}: {error}");
        // A binary that does not compile, or that dies, reports no failed test.
        count.failed = count.failed.max(1);
    }
    count
}

/// Prints the output of a test run as it comes, and counts; also returns whether the run succeeded.
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
            let line = line.with_context(|| format!("cannot read the output of `{text}`"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            count.add(&line);
        }
    }
    let status = child.wait().with_context(|| format!("cannot finish `{text}`"))?;
    Ok((count, status.success()))
}

impl Count {
    /// Takes a line of output into account.
    pub fn add(&mut self, line: &str) {
        if let Some((passed, failed)) = parse_result(line) {
            self.passed += passed;
            self.failed += failed;
        }
        self.repeated.extend(parse_repeated(line).map(str::to_owned));
    }
}

/// Prints the summary; a step of tests that ran none has failed, unless a filter explains it.
pub fn report(outcomes: &mut [Outcome], filtered: bool) -> Result<()> {
    let ran_none = |outcome: &Outcome| outcome.count.passed + outcome.count.failed == 0;
    if !filtered || outcomes.iter().all(ran_none) {
        for outcome in outcomes.iter_mut().filter(|outcome| ran_none(outcome)) {
            eprintln!("xtask: {}: no test was run", outcome.name);
            outcome.count.failed = 1;
        }
    }
    println!();
    for Outcome { name, took, count: Count { passed, failed, repeated }, .. } in outcomes.iter() {
        let repeated =
            if repeated.is_empty() { String::new() } else { format!(" {:>4} repeated", repeated.len()) };
        println!("{name:<12} {:>7.1} s  {passed:>4} passed {failed:>4} failed{repeated}", took.as_secs_f64());
    }
    for outcome in outcomes.iter() {
        let repeated = outcome.count.repeated.iter().map(|line| format!("{REPEATED}{line}"));
        for line in repeated.chain(outcome.remarks.iter().cloned()) {
            println!("{}: {line}", outcome.name);
        }
    }
    let sum = |of: fn(&Count) -> u64| outcomes.iter().map(|outcome| of(&outcome.count)).sum::<u64>();
    let (passed, failed) = (sum(|count| count.passed), sum(|count| count.failed));
    println!("\n{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("cannot pass: {failed} failed");
    }
    Ok(())
}

/// Reads libtest's closing line: `test result: ok. 3 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<(u64, u64)> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word))
            .and_then(|number| number.trim().parse().ok())
    };
    Some((number("passed")?, number("failed")?))
}

/// Reads the line of a repeated attempt: `repeated: NAME: attempt 1 of 3: REASON`.
pub fn parse_repeated(line: &str) -> Option<&str> {
    line.strip_prefix(REPEATED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(passed: u64, failed: u64) -> Outcome {
        let count = Count { passed, failed, repeated: Vec::new() };
        Outcome { name: "unit", took: Duration::ZERO, count, remarks: Vec::new() }
    }

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
            assert_eq!(parse_result(&line), expected, "{why}");
        }
    }

    #[test]
    fn a_run_without_tests_fails() {
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
        assert_eq!((outcome.count.passed, outcome.count.failed), (0, 1));
    }

    #[test]
    fn several_runs_are_added_up() {
        let lines =
            "test result: ok. 3 passed; 1 failed; 0 ignored\nrepeated: flush_slow: attempt 1 of 3: too fast";
        let outcome = tests("unit", 10, || {
            let mut command = Command::new("echo");
            command.arg(lines);
            Ok(command)
        });
        assert_eq!((outcome.count.passed, outcome.count.failed), (30, 10));
        assert_eq!(outcome.count.repeated, vec!["flush_slow: attempt 1 of 3: too fast"; 10]);
    }
}
