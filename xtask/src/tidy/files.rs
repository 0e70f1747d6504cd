//! Lengths and names of files, and text that must not be committed.
//!
//! The words that are searched for are put together here, so that this file passes its own rules.

use std::collections::BTreeMap;
use std::path::Path;

/// Lines of a Rust file. Two responsibilities in one file show earlier than this.
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

/// Directories of product code, where an editor's file picker should show each name once.
const PRODUCT: [&str; 2] = ["probe-ebpf/src/", "probe-user/src/"];

/// Names that say what a file is by convention.
const CONVENTIONAL: [&str; 3] = ["lib.rs", "main.rs", "tests.rs"];

/// Checks one file.
pub fn check(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let is_rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
    if is_rust {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{path}: {lines} lines, {LINES_MAX} at most"));
        }
        if Path::new(path).file_name().is_some_and(|name| name == "mod.rs") {
            problems.push(format!("{path}: name it after its directory, not mod.rs"));
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

/// Finds product files that share their name.
pub fn check_names<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in paths {
        let name = path.rsplit('/').next().unwrap_or(path);
        let is_product = PRODUCT.iter().any(|directory| path.starts_with(directory));
        if is_product && !CONVENTIONAL.contains(&name) {
            by_name.entry(name).or_default().push(path);
        }
    }
    let shared = by_name.into_iter().filter(|(_, paths)| paths.len() > 1);
    shared
        .map(|(name, paths)| {
            format!("{name}: {} product files have this name: {}", paths.len(), paths.join(", "))
        })
        .collect()
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
    fn files() {
        let root = MACHINE_DIRECTORIES[0];
        let host = format!("{}.{}", REGISTRIES[0].0, REGISTRIES[0].1);
        let macro_call = format!("    {}!(\"later\")", UNFINISHED[0]);
        let ignore = format!("#[{}]", "ignore");
        let cases = [
            ("a.rs", "fn main() {}\n".repeat(LINES_MAX), 0, "as long as allowed"),
            ("a.rs", "fn main() {}\n".repeat(LINES_MAX + 1), 1, "one line too long"),
            ("a.md", "text\n".repeat(LINES_MAX + 1), 0, "only Rust has a limit"),
            ("a/mod.rs", String::new(), 1, "modules are named after their directory"),
            ("a/my_mod.rs", String::new(), 0, "another name"),
            ("a.rs", macro_call.clone(), 1, "unfinished"),
            ("a.rs", macro_call.replace("    ", "not_"), 0, "the end of another name"),
            ("a.md", macro_call, 0, "text may mention it"),
            ("a.rs", ignore.clone(), 1, "no reason"),
            ("a.rs", ignore.replace(']', " = \"needs a VM\"]"), 0, "a reason"),
            ("README.md", format!("see https://{host}/aya"), 1, "a registry"),
            ("Cargo.lock", format!("registry+https://{host}"), 0, "cargo writes it"),
            ("fuzz/Cargo.lock", format!("registry+https://{host}"), 0, "another lock file"),
            ("a.sh", format!("cd /{root}/x"), 1, "one machine's directory"),
            ("a.sh", format!("\"/{root}/x\""), 1, "the same in quotes"),
            ("a.rs", format!("/proc/{{pid}}/{root}/etc"), 0, "below another directory"),
            ("a.md", format!("`/proc/PID/{root}/etc`"), 0, "below another directory"),
        ];
        for (path, text, expected, why) in cases {
            assert_eq!(check(path, &text).len(), expected, "{path}: {why}");
        }
    }

    #[test]
    fn names() {
        let cases: [(&[&str], usize, &str); 4] = [
            (&["probe-user/src/a/tls.rs", "probe-user/src/b/tls.rs"], 1, "two in one crate"),
            (&["probe-ebpf/src/slow.rs", "probe-user/src/kernel/slow.rs"], 1, "one in each crate"),
            (&["probe-user/src/a/tests.rs", "probe-user/src/b/tests.rs"], 0, "a conventional name"),
            (&["probe-user/src/a/tls.rs", "tests/src/tls.rs", "xtask/src/tls.rs"], 0, "one is no product"),
        ];
        for (paths, expected, why) in cases {
            assert_eq!(check_names(paths.iter().copied()).len(), expected, "{why}");
        }
    }
}
