//! One run of a series, and the table of all.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::steps::Count;

#[derive(Clone, Debug)]
pub struct Run {
    /// From 1.
    pub number: u32,
    pub began: SystemTime,
    pub took: Duration,
    pub count: Count,
    /// The end of the output.
    pub tail: String,
}

impl Run {
    pub fn has_failed(&self) -> bool {
        self.count.failed > 0
    }

    /// Returns the run in one line.
    pub fn line(&self) -> String {
        let outcome = if self.has_failed() { "failed" } else { "passed" };
        let repeated = match self.count.repeated.len() {
            0 => String::new(),
            times => format!(", repeated {times}"),
        };
        format!("{outcome} in {:.1} s{repeated}", self.took.as_secs_f64())
    }

    pub fn json(&self) -> Value {
        json!({
            "run": self.number,
            "started": humantime::format_rfc3339_millis(self.began).to_string(),
            "seconds": self.took.as_secs_f64(),
            "outcome": if self.has_failed() { "failed" } else { "passed" },
            "tests_passed": self.count.passed,
            "tests_failed": self.count.failed,
            "repeated": self.count.repeated,
        })
    }

    #[cfg(test)]
    pub fn example(failed: u64, repeated: usize) -> Self {
        let count =
            Count { passed: 1, failed, repeated: vec!["a case: attempt 1 of 3".to_owned(); repeated] };
        let took = Duration::from_secs(2 + failed);
        Self { number: 1, began: SystemTime::UNIX_EPOCH, took, count, tail: String::new() }
    }
}

/// Figures over all runs.
struct Summary {
    passed: usize,
    failed: usize,
    repeated: usize,
    /// The shortest, the median and the longest run, in seconds; 0 without runs.
    seconds: [f64; 3],
}

impl Summary {
    fn of(all: &[Run]) -> Self {
        let failed = all.iter().filter(|run| run.has_failed()).count();
        let mut took: Vec<_> = all.iter().map(|run| run.took).collect();
        took.sort();
        let at = |index: usize| took.get(index).map_or(0.0, Duration::as_secs_f64);
        Self {
            passed: all.len() - failed,
            failed,
            repeated: all.iter().map(|run| run.count.repeated.len()).sum(),
            seconds: [at(0), at(took.len() / 2), at(took.len().saturating_sub(1))],
        }
    }
}

/// Returns the table that ends a series: the runs that failed or were repeated, and the figures.
pub fn table(name: &str, all: &[Run]) -> String {
    let Summary { passed, failed, repeated, seconds: [min, median, max] } = Summary::of(all);
    let mut text = String::from("\n");
    // Writing to a string cannot fail.
    for run in all.iter().filter(|run| run.has_failed() || !run.count.repeated.is_empty()) {
        let _ = writeln!(text, "run {:>4}  {}", run.number, run.line());
        for line in &run.count.repeated {
            let _ = writeln!(text, "          {line}");
        }
    }
    let _ = writeln!(
        text,
        "series                            runs  passed  failed  repeated   min s  median s   max s"
    );
    let _ = writeln!(
        text,
        "{name:<32}  {:>4}  {passed:>6}  {failed:>6}  {repeated:>8}  {min:>6.1}  {median:>8.1}  {max:>6.1}",
        all.len()
    );
    text
}

/// Returns the same for a program.
pub fn json(about: &Value, all: &[Run], difference: Option<&String>) -> Value {
    let Summary { passed, failed, repeated, seconds: [min, median, max] } = Summary::of(all);
    let mut json = about.clone();
    json["runs"] = all.len().into();
    json["passed"] = passed.into();
    json["failed"] = failed.into();
    json["repeated"] = repeated.into();
    json["seconds"] = json!({ "min": min, "median": median, "max": max });
    json["as_expected"] = difference.is_none().into();
    json["difference"] = difference.map(String::as_str).into();
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_figures_and_every_failed_run() {
        let runs = [Run::example(0, 0), Run::example(1, 0), Run::example(0, 1)];
        let expected = "\nrun    1  failed in 3.0 s\nrun    1  passed in 2.0 s, repeated 1\n          \
                        a case: attempt 1 of 3\n\
                        series                            runs  passed  failed  repeated   min s  median s   max s\n\
                        flush_slow                           3       2       1         1     2.0       2.0     3.0\n";
        assert_eq!(table("flush_slow", &runs), expected);
        assert!(table("none", &[]).contains('0'), "a series without runs has a table");
    }

    #[test]
    fn records_are_json() {
        let run = Run::example(1, 1).json();
        assert_eq!(run["outcome"], "failed");
        assert_eq!(run["started"], "1970-01-01T00:00:00.000Z");
        let all = json(&json!({ "series": "a" }), &[Run::example(0, 0)], Some(&"too few".to_owned()));
        assert_eq!(
            (&all["passed"], &all["as_expected"], &all["difference"]),
            (&1.into(), &false.into(), &"too few".into())
        );
    }
}
