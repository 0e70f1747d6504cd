//! Checks what no other tool checks. Each rule is a pure function of a path and a text.
//!
//! The words that are looked for are put together here, so that this file passes its own rules.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::{capture, cargo};

const LINES_MAX: usize = 600;

/// Directories of one machine, without their slashes.
const MACHINE_DIRECTORIES: [&str; 2] = ["root", "work"];

/// Hosts of package registries: name and top-level domain.
const REGISTRIES: [(&str, &str); 9] = [
    ("crates", "io"),
    ("static.rust-lang", "org"),
    ("deb.debian", "org"),
    ("security.debian", "org"),
    ("snapshot.debian", "org"),
    ("archive.ubuntu", "com"),
    ("pypi", "org"),
    ("registry.npmjs", "org"),
    ("proxy.golang", "org"),
];

const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

pub fn run() -> Result<()> {
    let mut problems = Vec::new();
    for features in [&[][..], &["--features", "kernel"]] {
        let tree =
            capture(cargo().args(["tree", "--package", "probe-ebpf", "--prefix", "none"]).args(features))?;
        problems.extend(check_tree(&tree));
    }
    for path in capture(std::process::Command::new("git").args(["ls-files", "-z"]))?.split_terminator('\0') {
        if !Path::new(path).is_file() {
            continue; // Deleted, and not yet committed.
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {path}"))?;
        // A picture has no words.
        if let Ok(text) = String::from_utf8(bytes) {
            problems.extend(check_file(path, &text));
        }
    }
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    if !problems.is_empty() {
        bail!("cannot call this tidy: {} problems", problems.len());
    }
    Ok(())
}

/// The kernel side is the daemon's foundation, and must not grow its dependencies.
fn check_tree(tree: &str) -> Option<String> {
    let has_tokio = tree.lines().any(|line| line.split_whitespace().next() == Some("tokio"));
    has_tokio.then(|| "probe-ebpf depends on tokio".to_owned())
}

fn check_file(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let is_rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
    if is_rust {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{path}: {lines} lines, {LINES_MAX} at most"));
        }
        if Path::new(path).file_name().is_some_and(|name| name == "mod.rs") {
            problems.push(format!("{path}: call it after its directory, not mod.rs"));
        }
    }
    // Cargo itself writes the registry's address into its lock file.
    let is_lock = Path::new(path).file_name().is_some_and(|name| name == "Cargo.lock");
    for (index, line) in text.lines().enumerate() {
        let mut problem = |what: String| problems.push(format!("{path}:{}: {what}", index + 1));
        if let Some(host) = registry(line).filter(|_| !is_lock) {
            problem(format!("names the registry {host}"));
        }
        if let Some(directory) = machine_directory(line) {
            problem(format!("names the directory {directory} of one machine"));
        }
        if is_rust {
            if line.trim_start().starts_with(&format!("#[{}]", "ignore")) {
                problem("a test is ignored without a reason".to_owned());
            }
            if let Some(name) = unfinished(line) {
                problem(format!("has {name}!"));
            }
        }
    }
    problems
}

fn registry(line: &str) -> Option<String> {
    REGISTRIES.iter().map(|(name, domain)| format!("{name}.{domain}")).find(|host| line.contains(host))
}

/// Finds an absolute path: `/proc/PID/root/etc` goes on from another directory, and is none.
fn machine_directory(line: &str) -> Option<String> {
    let continues = |before: char| before.is_alphanumeric() || "_-./})>*$~".contains(before);
    MACHINE_DIRECTORIES
        .iter()
        .map(|name| format!("/{name}/"))
        .find(|path| line.match_indices(path.as_str()).any(|(at, _)| !line[..at].ends_with(continues)))
}

fn unfinished(line: &str) -> Option<&'static str> {
    let is_identifier = |before: char| before.is_alphanumeric() || before == '_';
    UNFINISHED.into_iter().find(|name| {
        let call = format!("{name}!");
        line.match_indices(&call).any(|(at, _)| {
            let opens = line[at + call.len()..].trim_start().starts_with(['(', '[', '{']);
            opens && !line[..at].ends_with(is_identifier)
        })
    })
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
    fn files() {
        let root = MACHINE_DIRECTORIES[0];
        let host = format!("{}.{}", REGISTRIES[0].0, REGISTRIES[0].1);
        let macro_call = format!("    {}!(\"later\")", UNFINISHED[0]);
        let ignore = format!("#[{}]", "ignore");
        let cases = [
            ("a.rs", "fn main() {}\n".repeat(LINES_MAX), 0, "as long as allowed"),
            ("a.rs", "fn main() {}\n".repeat(LINES_MAX + 1), 1, "one line too long"),
            ("a.md", "text\n".repeat(LINES_MAX + 1), 0, "only Rust has a limit"),
            ("a/mod.rs", String::new(), 1, "modules are called after their directory"),
            ("a/my_mod.rs", String::new(), 0, "another name"),
            ("a.rs", macro_call.clone(), 1, "unfinished"),
            ("a.rs", macro_call.replace("    ", "not_"), 0, "the end of another name"),
            ("a.md", macro_call, 0, "text may talk of it"),
            ("a.rs", ignore.clone(), 1, "no reason"),
            ("a.rs", ignore.replace(']', " = \"needs a VM\"]"), 0, "a reason"),
            ("README.md", format!("see https://{host}/aya"), 1, "a registry"),
            ("Cargo.lock", format!("registry+https://{host}"), 0, "cargo writes it"),
            ("fuzz/Cargo.lock", format!("registry+https://{host}"), 0, "another of its"),
            ("a.sh", format!("cd /{root}/x"), 1, "one machine's directory"),
            ("a.sh", format!("\"/{root}/x\""), 1, "the same in quotes"),
            ("a.rs", format!("/proc/{{pid}}/{root}/etc"), 0, "below another directory"),
            ("a.md", format!("`/proc/PID/{root}/etc`"), 0, "below another directory"),
        ];
        for (path, text, expected, why) in cases {
            assert_eq!(check_file(path, &text).len(), expected, "{path}: {why}");
        }
    }
}
