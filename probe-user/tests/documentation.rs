//! Checks the README's size and verdicts, and every relative link of the documentation.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use probe_user::analysis::verdict::Verdict;

const LINES_MAX: usize = 150;
const COLUMNS_MAX: usize = 110;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns all pages: at the root, and below `docs`.
fn pages() -> Vec<PathBuf> {
    let mut directories = vec![root().join("docs")];
    let mut pages = markdown_of(&root());
    while let Some(directory) = directories.pop() {
        pages.extend(markdown_of(&directory));
        let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
        directories.extend(entries.filter(|path| path.is_dir()));
    }
    pages
}

fn markdown_of(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Returns a page without its blocks of code.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    text.split("```").step_by(2).collect()
}

/// Returns the anchors of a page's headings, as GitHub derives them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let anchor = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || ['-', '_', ' '].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose(page).lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

#[test]
fn the_readme_is_short() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(text.lines().count() <= LINES_MAX, "{} lines", text.lines().count());
    for (index, line) in text.lines().enumerate() {
        assert!(line.chars().count() <= COLUMNS_MAX, "line {}: {line}", index + 1);
    }
}

#[test]
fn the_readme_lists_every_verdict() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = text.split_once("\n## Verdicts\n").expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0));
    assert_eq!(rows.collect::<Vec<_>>(), Verdict::ALL.map(Verdict::as_str));
}

#[test]
fn every_link_has_a_target() {
    let mut broken = Vec::new();
    for page in pages() {
        for link in prose(&page).split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.with_file_name(path) };
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            if !target.exists() || (is_page && !anchor.is_empty() && !anchors(&target).contains(anchor)) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
