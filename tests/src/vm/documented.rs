//! What docs/kernels.md says of a kernel, to be held against what a machine found.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{Architecture, Kernel};

/// Returns the capabilities that the documentation says starting takes.
pub fn privileges(kernel: &Kernel, hook: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs/kernels.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let machine = match kernel.architecture {
        Architecture::Amd64 => "x86-64",
        Architecture::Arm64 => "aarch64",
    };
    let found = row(&text, &[&kernel.name, machine, hook, "yes"]);
    found.with_context(|| format!("docs/kernels.md has no row for {} with {hook}", kernel.label()))
}

/// Returns the last cell of the row that begins with these.
fn row(text: &str, begin: &[&str]) -> Option<String> {
    text.lines().find_map(|line| {
        let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim);
        begin
            .iter()
            .all(|wanted| cells.next() == Some(*wanted))
            .then(|| cells.next_back())?
            .map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_how_they_begin() {
        let text = "| a | b | c |\n|---|---|---|\n| 1 | x | one |\n| 1 | y | |\n";
        let cases = [
            (&["1", "x"][..], Some("one"), "a row"),
            (&["1", "y"], Some(""), "an empty cell"),
            (&["2", "x"], None, "no such row"),
        ];
        for (begin, expected, why) in cases {
            assert_eq!(row(text, begin).as_deref(), expected, "{why}");
        }
    }
}
