//! Checks what no other tool checks. Each rule is a pure function of paths and texts.

mod crates;
mod files;
mod imports;
mod language;
mod layers;
mod syntax;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use self::crates::{Crate, Cycle};
use crate::process::{capture, cargo};

/// Crates whose modules must not import each other in a cycle: the name, and the root.
const CRATES: [(&str, &str); 4] = [
    ("probe_ebpf", "probe-ebpf/src/lib.rs"),
    ("", "probe-ebpf/src/main.rs"),
    ("probe_user", "probe-user/src/lib.rs"),
    ("", "probe-user/src/main.rs"),
];

pub fn run() -> Result<()> {
    let mut problems = Vec::new();
    for features in [&[][..], &["--features", "kernel"]] {
        let tree =
            capture(cargo().args(["tree", "--package", "probe-ebpf", "--prefix", "none"]).args(features))?;
        problems.extend(check_tree(&tree));
    }
    let texts = texts()?;
    for (path, text) in &texts {
        problems.extend(files::check(path, text));
        problems.extend(layers::check(path, text));
        problems.extend(language::check(path, text));
    }
    problems.extend(files::check_names(texts.keys().map(String::as_str)));
    let crates = CRATES.map(|(name, root)| Crate::read(name, root, &texts));
    for this in &crates {
        problems.extend(crates::cycles(this, &crates::edges(this, &crates)).iter().map(describe));
    }
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    if !problems.is_empty() {
        bail!("cannot call this tidy: {} problems", problems.len());
    }
    Ok(())
}

/// Returns the text files that git has, by path; pictures have no words.
fn texts() -> Result<BTreeMap<String, String>> {
    let mut texts = BTreeMap::new();
    for path in capture(std::process::Command::new("git").args(["ls-files", "-z"]))?.split_terminator('\0') {
        if !Path::new(path).is_file() {
            continue; // Deleted, and not yet committed.
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            texts.insert(path.to_owned(), text);
        }
    }
    Ok(texts)
}

/// The kernel side is the daemon's foundation, and must not grow its dependencies.
fn check_tree(tree: &str) -> Option<String> {
    let has_tokio = tree.lines().any(|line| line.split_whitespace().next() == Some("tokio"));
    has_tokio.then(|| "probe-ebpf depends on tokio".to_owned())
}

/// Names the modules that import each other, and the imports between them.
fn describe(cycle: &Cycle<'_>) -> String {
    let mut text = format!("{} modules import each other: {}", cycle.modules.len(), cycle.modules.join(", "));
    for edge in &cycle.edges {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n        {}:{} imports {}", edge.from, edge.line, edge.to);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees() {
        let cases = [
            ("probe-ebpf v0.1.0 (/somewhere)\naya-ebpf v0.2.1\n", false, "what the kernel side needs"),
            ("probe-ebpf v0.1.0\ntokio v1.48.0\n", true, "a runtime"),
            ("probe-ebpf v0.1.0\ntokio-like v1.0.0\n", false, "another crate"),
        ];
        for (tree, expected, why) in cases {
            assert_eq!(check_tree(tree).is_some(), expected, "{why}");
        }
    }

    #[test]
    fn a_cycle_is_reported_with_its_imports() {
        let texts = [
            ("src/lib.rs", "mod a;\nmod b;"),
            ("src/a.rs", "\nuse crate::b::X;"),
            ("src/b.rs", "use crate::a::Y;"),
        ];
        let texts = texts.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        let this = [Crate::read("probe_p", "src/lib.rs", &texts)];
        let edges = crates::edges(&this[0], &this);
        let reports: Vec<_> = crates::cycles(&this[0], &edges).iter().map(describe).collect();
        let expected = "2 modules import each other: a, b\n        src/a.rs:2 imports src/b.rs\n        src/b.rs:1 imports src/a.rs";
        assert_eq!(reports, [expected]);
    }
}
