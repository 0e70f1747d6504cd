//! What a series is expected to show: a file in the repository, written before the first run.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::summary::Run;
use crate::process::capture;

/// Where the files are.
const DIRECTORY: &str = "tests/series";

#[derive(Debug, PartialEq, Eq)]
pub struct Expectations {
    /// The binary of the tests, `host`, `matrix` or `systemd`; all of them if it is absent.
    pub binary: Option<String>,
    /// What the names of the tests contain.
    pub case: String,
    /// In words: what the series shows, and why so many runs.
    pub expected: String,
    pub runs: u32,
    pub failures_max: usize,
    /// Attempts that were disturbed and made again, in all runs together.
    pub repeated_max: usize,
    /// The commit that has the file as it is.
    pub commit: String,
}

impl Expectations {
    /// Reads the file of a series, which must be committed as it is.
    pub fn committed(name: &str) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(format!("{name}.json"));
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}; describe what you expect there, and commit it before the first run",
                path.display()
            )
        })?;
        let git = |arguments: &[&str]| capture(Command::new("git").args(arguments).arg("--").arg(&path));
        let commit = git(&["log", "-1", "--format=%H"])?.trim().to_owned();
        if commit.is_empty() || !git(&["status", "--porcelain"])?.is_empty() {
            bail!("cannot count runs before {} is committed", path.display());
        }
        Self::parse(&text, commit).with_context(|| format!("cannot use {}", path.display()))
    }

    fn parse(text: &str, commit: String) -> Result<Self> {
        const FIELDS: [&str; 6] = ["binary", "case", "expected", "runs", "failures_max", "repeated_max"];
        let value: Value = serde_json::from_str(text).context("cannot parse JSON")?;
        let unknown =
            value.as_object().and_then(|fields| fields.keys().find(|key| !FIELDS.contains(&key.as_str())));
        if let Some(unknown) = unknown {
            bail!("unknown field `{unknown}`; there are {}", FIELDS.join(", "));
        }
        let words = |name: &str| {
            value[name].as_str().map(str::to_owned).with_context(|| format!("`{name}` must be a string"))
        };
        let number = |name: &str| {
            value[name].as_u64().with_context(|| format!("`{name}` must be a number, 0 or more"))
        };
        let runs = u32::try_from(number("runs")?).context("`runs` is too large")?;
        if runs == 0 {
            bail!("`runs` must be 1 or more");
        }
        Ok(Self {
            binary: value.get("binary").map(|_| words("binary")).transpose()?,
            case: words("case")?,
            expected: words("expected")?,
            runs,
            failures_max: usize::try_from(number("failures_max")?)?,
            repeated_max: usize::try_from(number("repeated_max")?)?,
            commit,
        })
    }

    /// Compares runs with what is expected.
    pub fn compare(&self, all: &[Run]) -> Result<(), String> {
        let failed = all.iter().filter(|run| run.has_failed()).count();
        let repeated: usize = all.iter().map(|run| run.count.repeated.len()).sum();
        let mut differences = Vec::new();
        if all.len() < self.runs as usize {
            differences.push(format!("{} runs, {} are needed to count", all.len(), self.runs));
        }
        if failed > self.failures_max {
            differences.push(format!("{failed} failed, {} at most", self.failures_max));
        }
        if repeated > self.repeated_max {
            differences.push(format!("{repeated} attempts repeated, {} at most", self.repeated_max));
        }
        if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        r#"{ "case": "verdict::", "expected": "all pass", "runs": 3, "failures_max": 1, "repeated_max": 2 }"#;

    #[test]
    fn files_are_read() {
        let cases = [
            (FILE.to_owned(), true, "a whole file"),
            (FILE.replace("\"runs\": 3", "\"runs\": 0"), false, "no runs show nothing"),
            (FILE.replace("\"runs\": 3,", ""), false, "how many runs count"),
            (FILE.replace("failures_max", "failure_max"), false, "a misspelt field"),
            (FILE.replace('1', "-1"), false, "fewer failures than none"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(Expectations::parse(&text, String::new()).is_ok(), expected, "{why}");
        }
    }

    #[test]
    fn runs_are_compared() {
        let expectations = Expectations::parse(FILE, String::new()).unwrap();
        let (passed, failed, repeated) = (Run::example(0, 0), Run::example(1, 0), Run::example(0, 1));
        let cases = [
            (vec![&passed, &passed, &passed], Ok(()), "all passed"),
            (vec![&passed, &failed, &passed], Ok(()), "as many failed as allowed"),
            (vec![&failed, &failed, &passed], Err("2 failed, 1 at most"), "one more"),
            (vec![&passed, &passed], Err("2 runs, 3 are needed to count"), "too few"),
            (vec![&repeated; 3], Err("3 attempts repeated, 2 at most"), "too many were disturbed"),
        ];
        for (runs, expected, why) in cases {
            let runs: Vec<Run> = runs.into_iter().cloned().collect();
            assert_eq!(expectations.compare(&runs), expected.map_err(str::to_owned), "{why}");
        }
    }
}
