//! Replays the corpus of every fuzz target, so that a fixed finding stays fixed, without a fuzzer.
//!
//! The targets are part of the fuzz crate, which is not in the workspace. This test includes their file.

use std::{collections::BTreeSet, fs, path::PathBuf};

use targets::TARGETS;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Minimum number of seeds per target. A target whose files were lost would pass without notice.
const SEEDS: usize = 8;

fn corpus() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"))
}

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(other, _)| *other == name).expect("the target exists");
    let directory = corpus().join(name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= SEEDS, "{} of {SEEDS} files remain in {}", paths.len(), directory.display());
    for path in paths {
        println!("{}", path.display()); // Shown if it panics.
        target(&fs::read(&path).unwrap());
    }
}

#[test]
fn metrics() {
    replay("metrics");
}

#[test]
fn flags() {
    replay("flags");
}

#[test]
fn config_file() {
    replay("config_file");
}

#[test]
fn web_config() {
    replay("web_config");
}

#[test]
fn headers() {
    replay("headers");
}

#[test]
fn every_target_has_a_corpus_and_a_fuzzer() {
    let names = |directory: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(corpus()), targets);
    assert_eq!(names(corpus().join("../fuzz_targets")), targets);
}
