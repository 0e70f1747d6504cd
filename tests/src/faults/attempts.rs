//! Repeats a case whose fault did not occur as planned.
//!
//! A case that makes something slow or full checks with its own timer that it did. On a machine that is
//! faster, slower or busier than planned it may not have: such an attempt shows nothing about the probe, and
//! is made again. A wrong result of the probe is never repeated.

use std::io::{self, Write};

use crate::machine::vm::case::REPEATED;

/// How often a case is tried in all.
pub const ATTEMPTS: u32 = 3;

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt<T> {
    /// The fault occurred, and this was measured.
    Valid(T),
    /// The fault did not occur: why, with what the case's own timer measured.
    Disturbed(String),
}

/// Makes attempts, numbered from 1, until one is valid, and returns its value.
///
/// Prints a line for each that is repeated: `repeated: NAME: attempt 1 of 3: REASON`. `cargo xtask test` and
/// `series` count these lines.
///
/// # Panics
///
/// If no attempt is valid, with the reason of each.
#[track_caller]
pub fn attempts<T>(name: &str, max: u32, attempt: impl FnMut(u32) -> Attempt<T>) -> T {
    reported(name, max, attempt, report)
}

/// Like [`attempts`], for an attempt that may fail; a failure is not repeated.
///
/// # Errors
///
/// The error of an attempt.
///
/// # Panics
///
/// If no attempt is valid, with the reason of each.
#[track_caller]
pub fn try_attempts<T>(
    name: &str,
    max: u32,
    mut attempt: impl FnMut(u32) -> anyhow::Result<Attempt<T>>,
) -> anyhow::Result<T> {
    attempts(name, max, |number| match attempt(number) {
        Ok(Attempt::Valid(value)) => Attempt::Valid(Ok(value)),
        Ok(Attempt::Disturbed(reason)) => Attempt::Disturbed(reason),
        Err(error) => Attempt::Valid(Err(error)),
    })
}

#[track_caller]
fn reported<T>(
    name: &str,
    max: u32,
    mut attempt: impl FnMut(u32) -> Attempt<T>,
    mut report: impl FnMut(&str),
) -> T {
    let mut reasons = Vec::new();
    for number in 1..=max {
        match attempt(number) {
            Attempt::Valid(value) => return value,
            Attempt::Disturbed(reason) => {
                if number < max {
                    report(&line(name, number, max, &reason));
                }
                reasons.push(reason);
            }
        }
    }
    panic!("{name} was disturbed {max} times, and shows nothing: {}", reasons.join("; "))
}

fn line(name: &str, number: u32, max: u32, reason: &str) -> String {
    format!("{REPEATED}{name}: attempt {number} of {max}: {}", reason.replace('\n', " "))
}

/// Prints a line of its own, which libtest does not capture: it has written `test NAME ... ` without an end
/// of line.
fn report(line: &str) {
    // A test whose output is closed still has a result.
    let _ = writeln!(io::stdout().lock(), "\n{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic;

    /// Results of attempts, the value, the number of attempts, why.
    type Case<'a> = (&'a [Attempt<u32>], Option<u32>, u32, &'a str);

    #[test]
    fn only_disturbed_attempts_are_repeated() {
        let disturbed = || Attempt::Disturbed("too fast".to_owned());
        let cases: [Case<'_>; 4] = [
            (&[Attempt::Valid(7)], Some(7), 1, "the first one"),
            (&[disturbed(), Attempt::Valid(8)], Some(8), 2, "the second one"),
            (&[disturbed(), disturbed(), Attempt::Valid(9)], Some(9), 3, "the last one"),
            (&[disturbed(), disturbed(), disturbed()], None, 3, "none"),
        ];
        for (results, expected, made, why) in cases {
            let (mut numbers, mut lines) = (Vec::new(), 0);
            let value = panic::catch_unwind(panic::AssertUnwindSafe(|| {
                let attempt = |number| {
                    numbers.push(number);
                    results[numbers.len() - 1].clone()
                };
                reported("a_case", ATTEMPTS, attempt, |_| lines += 1)
            }));
            assert_eq!(value.ok(), expected, "{why}");
            assert_eq!(numbers, (1..=made).collect::<Vec<_>>(), "{why}");
            assert_eq!(lines, made - 1, "{why}: a line for each repetition");
        }
    }

    #[test]
    fn the_line_is_what_the_gate_counts() {
        assert_eq!(line("a_case", 1, 3, "5 ms\nof 20 ms"), "repeated: a_case: attempt 1 of 3: 5 ms of 20 ms");
    }
}
