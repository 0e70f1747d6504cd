//! The top-level modules of `probe-user`, what each may import, and what `analysis` must not contain.

use std::collections::BTreeMap;
use std::path::Path;

use super::imports::{Source, absolute};
use super::syntax::{Kind, code, tokens};

/// Where the modules are.
const DIRECTORY: &str = "probe-user/src/";

/// All top-level modules, from the top down, and the modules that each may import besides itself.
///
/// ARCHITECTURE.md gives the reasons. `lib.rs` and `main.rs` may import all of them.
const LAYERS: [(&str, &[&str]); 10] = [
    (
        "command",
        &["server", "output", "monitor", "kernel", "etcd", "discovery", "system", "analysis", "support"],
    ),
    ("server", &["output", "monitor", "system", "analysis", "support"]),
    ("output", &["analysis", "support"]),
    ("monitor", &["kernel", "etcd", "discovery", "system", "analysis", "support"]),
    ("kernel", &["analysis", "system", "support"]),
    ("etcd", &["discovery", "system", "analysis", "support"]),
    ("discovery", &["system", "support"]),
    ("system", &["support"]),
    ("analysis", &[]),
    ("support", &[]),
];

/// Reads no clock, no file, no socket and no environment, so that the same input has the same result.
const PURE: &str = "analysis";

/// Modules of the standard library, and functions of its types, that read a clock or do I/O.
const IMPURE_STD: [&[&str]; 11] = [
    &["std", "fs"],
    &["std", "net"],
    &["std", "process"],
    &["std", "env"],
    &["std", "thread"],
    &["std", "io"],
    &["std", "os"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime", "now"],
    &["Instant", "now"],
    &["SystemTime", "now"],
];

/// Crates that do I/O or talk to the kernel.
const IMPURE_CRATES: [&str; 15] = [
    "aya",
    "aya_log",
    "axum",
    "hyper",
    "hyper_util",
    "libc",
    "log",
    "memmap2",
    "procfs",
    "rustix",
    "rustls",
    "sd_notify",
    "tokio",
    "tokio_rustls",
    "tracing",
];

/// Checks the imports of one file.
pub fn check(path: &str, text: &str) -> Vec<String> {
    let Some(module) = module(path) else { return Vec::new() };
    let top = module[0].as_str();
    let Some((_, permitted)) = LAYERS.iter().find(|(name, _)| *name == top) else {
        return vec![format!(
            "{path}: `{top}` is no top-level module of the table in xtask/src/tidy/layers.rs"
        )];
    };
    let mut problems = Vec::new();
    for import in Source::of(text).imports {
        let Some(target) = absolute(&import, &module, &BTreeMap::new()) else { continue };
        let target = target.first().map_or("the crate's root", String::as_str);
        if target != top && !permitted.contains(&target) {
            let written = import.path.join("::");
            problems.push(format!(
                "{path}:{}: `{top}` must not import `{target}`, as in `{written}`",
                import.line
            ));
        }
    }
    if top == PURE {
        problems.extend(impure(path, text));
    }
    problems
}

/// Returns the module of a file of the daemon; `None` for the crate's roots and other files.
fn module(path: &str) -> Option<Vec<String>> {
    let inside = path.strip_prefix(DIRECTORY)?;
    let is_rust = Path::new(inside).extension().is_some_and(|extension| extension == "rs");
    if !is_rust || inside == "lib.rs" || inside == "main.rs" {
        return None;
    }
    Some(inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect())
}

/// Finds clocks and I/O, in imports and in paths of code.
fn impure(path: &str, text: &str) -> Vec<String> {
    let imports = Source::of(text).imports.into_iter().map(|import| (import.line, import.path));
    let mut problems = Vec::new();
    for (line, written) in imports.chain(paths(text)) {
        let starts =
            |words: &[&str]| written.len() >= words.len() && written.iter().zip(words).all(|(a, b)| a == b);
        let is_impure =
            IMPURE_STD.into_iter().any(starts) || IMPURE_CRATES.iter().any(|name| starts(&[name]));
        if is_impure {
            problems.push(format!(
                "{path}:{line}: `{PURE}` has no clock and no I/O, and `{}` is",
                written.join("::")
            ));
        }
    }
    problems.sort();
    problems.dedup();
    problems
}

/// Returns every path of code, also of other crates.
fn paths(text: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = code(&tokens(text));
    let mut all = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, mut path) = (tokens[at].line, Vec::new());
        while let Some(Kind::Word(word)) = tokens.get(at).map(|token| token.kind) {
            path.push(word.to_owned());
            at += 1;
            if tokens.get(at).map(|token| token.kind) != Some(Kind::Separator) {
                break;
            }
            at += 1;
        }
        if path.len() > 1 {
            all.push((line, path));
        } else if path.is_empty() {
            at += 1;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_follow_the_table() {
        let cases = [
            ("monitor/scrape.rs", "use crate::etcd::client::Client;", 0, "the monitor scrapes etcd"),
            (
                "output/report.rs",
                "use crate::monitor::Monitor;",
                1,
                "output renders values, and reads no state",
            ),
            ("output/report.rs", "fn f() { crate::kernel::load() }", 1, "a path in code is an import"),
            (
                "output/report/text.rs",
                "use super::super::super::kernel::Map;",
                1,
                "out of the module by `super`",
            ),
            ("output/report/text.rs", "use super::super::metrics::X;", 0, "`super` that stays inside"),
            (
                "system/host.rs",
                "use crate::{support::x,\n    discovery::{self, a::{b, C}}};",
                3,
                "nested, on several lines: each name counts",
            ),
            ("analysis/causes.rs", "use crate::analysis::latency::Latency;", 0, "its own module"),
            ("analysis/causes.rs", "use probe_ebpf::series::Series; use std::fmt;", 0, "other crates"),
            (
                "analysis/causes.rs",
                "#[cfg(test)] mod tests { use super::*; use crate::kernel::X; }",
                1,
                "test modules are held to the same table",
            ),
            ("analysis/causes/tests.rs", "use crate::system::X;", 1, "so are files of tests"),
            ("server.rs", "use crate::command::Config;", 1, "never upward"),
            ("server.rs", "use crate::Everything;", 1, "the root has no items of its own"),
            ("utilities.rs", "", 1, "a module that the table does not name"),
            ("main.rs", "use probe_user::command;", 0, "the roots are outside of the table"),
            ("lib.rs", "pub mod command; pub use crate::command::X;", 0, "both of them"),
        ];
        for (path, text, expected, why) in cases {
            let problems = check(&format!("{DIRECTORY}{path}"), text);
            assert_eq!(problems.len(), expected, "{path}: {why}: {problems:?}");
        }
        assert!(check("probe-ebpf/src/maps.rs", "use crate::anything;").is_empty(), "another crate");
    }

    #[test]
    fn a_wrong_import_is_reported_with_its_line() {
        let problems =
            check("probe-user/src/output/metrics.rs", "//! Metrics.\n\nuse crate::kernel::Kernel;\n");
        let expected = "probe-user/src/output/metrics.rs:3: `output` must not import `kernel`, as in `crate::kernel::Kernel`";
        assert_eq!(problems, [expected]);
    }

    #[test]
    fn analysis_is_pure() {
        let cases = [
            ("fn f() -> Instant { Instant::now() }", 1, "a clock"),
            ("fn f() { std::time::SystemTime::now(); }", 1, "the other clock, with its whole path"),
            ("use std::{fmt, fs};", 1, "files"),
            ("use tokio::time::sleep;", 1, "a runtime"),
            ("fn f() { rustix::process::getpid(); }", 1, "the kernel"),
            ("use std::time::Duration; fn f(now: u64) { fs::x(); }", 0, "time as an argument"),
            ("// Instant::now\nconst S: &str = \"std::fs\";", 0, "comments and strings"),
        ];
        for (text, expected, why) in cases {
            let problems = check("probe-user/src/analysis/verdict.rs", text);
            assert_eq!(problems.len(), expected, "{text}: {why}: {problems:?}");
        }
        assert!(check("probe-user/src/system/host.rs", "use std::fs;").is_empty(), "only analysis");
    }
}
