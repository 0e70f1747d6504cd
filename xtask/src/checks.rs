//! The checks that need no kernel and no etcd: format, rules of this repository, lints, unit tests,
//! documentation and dependencies. `cargo xtask check` runs these, and the gate all of them and more.

use std::process::Command;

use anyhow::Result;

use crate::process::{cargo, run as run_command};
use crate::setup::{self, Scope};
use crate::steps::{self, Outcome};
use crate::{compile, tidy};

/// What `cargo deny` checks without a database.
const DENY: [&str; 3] = ["bans", "licenses", "sources"];

/// No documentation is published, so public items may link to private ones.
const DOC_FLAGS: &str = "-D warnings -A rustdoc::private-intra-doc-links";

/// Runs all of them, and prints a summary.
pub fn run() -> Result<()> {
    compile::ebpf(&setup::run(Scope::Demo)?.toolchain)?;
    let mut outcomes = before_tests();
    outcomes.push(unit(1, None));
    steps::report(&mut outcomes, false)
}

/// Runs all of them but the tests.
pub fn before_tests() -> Vec<Outcome> {
    vec![
        steps::check("fmt", || run_command(cargo().args(["fmt", "--all", "--check"]))),
        steps::check("tidy", tidy::run),
        steps::check("clippy", || {
            // As the tests are built, so that what runs while building is built once.
            let args = ["--workspace", "--all-targets", "--", "-D", "warnings"];
            run_command(compile::for_tests("clippy")?.args(args))
        }),
        steps::check("doc", || {
            let mut doc = compile::for_tests("doc")?;
            doc.args(["--workspace", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", DOC_FLAGS);
            run_command(&mut doc)
        }),
        steps::checked("deny", deny),
    ]
}

/// Runs the tests of libraries and programs, with a filter or without.
pub fn unit(times: u32, only: Option<&str>) -> Outcome {
    steps::tests("unit", times, || {
        // All packages are chosen for unit and integration tests, so that their dependencies have one set of
        // features.
        let mut unit = compile::for_tests("test")?;
        unit.args(["--workspace", "--no-fail-fast", "--lib", "--bins", "--"]).args(only);
        Ok(unit)
    })
}

/// Checks dependencies against `deny.toml`; known vulnerabilities only where their database can be fetched.
fn deny() -> Result<Vec<String>> {
    let (program, has_advisories) = setup::cargo_deny()?;
    let deny = |checks: &[&str]| {
        let mut deny = Command::new(&program);
        deny.args(["--workspace", "--locked", "check"]).args(checks);
        deny
    };
    run_command(&mut deny(&DENY))?;
    if has_advisories {
        run_command(deny(&["advisories"]).arg("--disable-fetch"))?;
        return Ok(Vec::new());
    }
    Ok(vec!["advisories were not checked: their database cannot be fetched from here".to_owned()])
}
