//! Runs one case many times and keeps every run, failures included, so that a rate can be stated rather than
//! guessed.
//!
//! The expected results are in `tests/series/NAME.json`, and committed before the first run: what is expected
//! is not chosen after the fact.

mod expectations;
mod summary;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::expectations::Expectations;
use self::summary::Run;
use crate::process::{capture, clean, text};
use crate::steps::Count;
use crate::{compile, setup};

/// How many lines at the end of its output a run's record repeats.
const TAIL_LINES: usize = 20;

/// Runs a series, keeps its runs in a directory, prints a table and compares it with what is expected.
pub fn run(root: &Path, name: &str, runs: Option<u32>, output: Option<&Path>) -> Result<()> {
    let expectations = Expectations::committed(name)?;
    let runs = runs.unwrap_or(expectations.runs);
    let setup = setup::run(setup::Scope::Everything)?;
    compile::for_gate(&setup)?;
    let binaries = binaries_with(expectations.binary.as_deref(), &expectations.case)?;
    let started = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let directory = output.map_or_else(
        || Path::new("target/series").join(name).join(started.replace(':', "")),
        Path::to_path_buf,
    );
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let about = json!({
        "series": name,
        "case": expectations.case,
        "expected_in": expectations.commit,
        "commit": capture(Command::new("git").args(["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]))?.trim(),
    });
    println!("series {name}: {runs} runs of `{}`, kept in {}", expectations.case, directory.display());
    let mut all = Vec::new();
    for number in 1..=runs {
        let log = directory.join(format!("{number:04}.log"));
        let run = once(root, &setup, &binaries, &expectations.case, number, &log)?;
        write(&directory.join(format!("{number:04}.json")), &record(&about, &run, &log)?)?;
        println!("series {name}: run {number} of {runs}: {}", run.line());
        all.push(run);
    }
    let verdict = expectations.compare(&all);
    print!("{}", summary::table(name, &all));
    write(&directory.join("summary.json"), &summary::json(&about, &all, verdict.as_ref().err()))?;
    match verdict {
        Ok(()) => {
            println!("series {name}: as expected: {}", expectations.expected);
            Ok(())
        }
        Err(difference) => bail!("series {name} is not as expected: {difference}"),
    }
}

/// Runs the case once in each binary that has it, its output in `log`.
fn once(
    root: &Path,
    setup: &setup::Setup,
    binaries: &[PathBuf],
    case: &str,
    number: u32,
    log: &Path,
) -> Result<Run> {
    let failed = || format!("cannot create {}", log.display());
    let file = File::create(log).with_context(failed)?;
    let (began, timer) = (SystemTime::now(), Instant::now());
    let mut succeeded = true;
    for binary in binaries {
        let mut test = clean(binary);
        test.args(["--test-threads=1", "--nocapture", "--include-ignored", case])
            .current_dir(root.join("tests"))
            .env("CARGO_MANIFEST_DIR", root.join("tests"))
            .env("ETCD_DISK_PROBE_BIN", root.join(compile::BINARY))
            .env("ETCD_DISK_PROBE_CACHE", setup.cache_directory())
            .stdin(Stdio::null())
            .stdout(file.try_clone().with_context(failed)?)
            .stderr(file.try_clone().with_context(failed)?);
        let status = test.status().with_context(|| format!("cannot run `{}`", text(&test)))?;
        succeeded &= status.success();
    }
    let output = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let output = String::from_utf8_lossy(&output);
    let mut count = Count::default();
    output.lines().for_each(|line| count.add(line));
    // A binary that dies reports no failed test; a filter that matches nothing tests nothing.
    if !succeeded || count.passed == 0 {
        count.failed = count.failed.max(1);
    }
    let lines: Vec<&str> = output.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    Ok(Run { number, began, took: timer.elapsed(), count, tail })
}

/// Builds the tests, and returns the binaries that have a test with this in its name.
fn binaries_with(binary: Option<&str>, case: &str) -> Result<Vec<PathBuf>> {
    let mut build = compile::for_tests("test")?;
    build.args([
        "--workspace",
        "--test",
        binary.unwrap_or("*"),
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    let messages = capture(&mut build)?;
    let binaries = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"].as_bool()?;
        is_test.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    let mut found = Vec::new();
    for binary in binaries {
        let list = capture(Command::new(&binary).args(["--list", "--include-ignored", case]))?;
        if list.lines().any(|line| line.ends_with(": test")) {
            found.push(binary);
        }
    }
    if found.is_empty() {
        bail!("cannot find a test with `{case}` in its name");
    }
    Ok(found)
}

fn record(about: &Value, run: &Run, log: &Path) -> Result<Value> {
    let mut record = about.clone();
    let fields = run.json();
    for (key, value) in fields.as_object().context("a run is an object")? {
        record[key] = value.clone();
    }
    record["log"] = log.display().to_string().into();
    record["tail"] = run.tail.as_str().into();
    Ok(record)
}

fn write(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, format!("{value:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}
