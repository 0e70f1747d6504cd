//! The statements of docs/kernels.md on a kernel and of docs/systemd.md on the unit, for comparison with the
//! results of a machine.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::{Architecture, Kernel};

/// Returns the capabilities for starting, according to the documentation.
///
/// A kernel newer than every row should match the last row.
pub fn privileges(kernel: &Kernel, hook: &str) -> anyhow::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs/kernels.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let machine = match kernel.architecture {
        Architecture::Amd64 => "x86-64",
        Architecture::Arm64 => "aarch64",
    };
    let found = last_cell(&text, &kernel.name, &[machine, hook, "yes"]);
    found.with_context(|| format!("docs/kernels.md has no row for {} with {hook}", kernel.label()))
}

/// Returns the last cell of the row for a kernel, or of the last row before it, where the cells after the
/// name match.
fn last_cell(text: &str, kernel: &str, then: &[&str]) -> Option<String> {
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim);
        let name = numbers(cells.next()?)?;
        let fits = then.iter().all(|wanted| cells.next() == Some(*wanted));
        fits.then(|| cells.next_back()).flatten().map(|last| (name, last.to_owned()))
    });
    let wanted = numbers(kernel)?;
    rows.filter(|(name, _)| *name <= wanted).max_by_key(|(name, _)| *name).map(|(_, last)| last)
}

/// Returns the first block of shell commands below a heading.
pub fn commands(text: &str, heading: &str) -> Option<String> {
    let (_, below) = text.split_once(&format!("\n## {heading}\n"))?;
    let below = below.split("\n## ").next()?;
    let (_, block) = below.split_once("```sh\n")?;
    Some(block.split_once("```")?.0.to_owned())
}

/// Returns the overall exposure in tenths, from the output of `systemd-analyze security` or a text that
/// quotes it.
pub fn exposure(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Overall exposure level for etcd-disk-probe.service: ")?;
    let (whole, rest) = rest.split_once('.')?;
    let tenths = rest.chars().next()?.to_digit(10)?;
    Some(whole.parse::<u32>().ok()? * 10 + tenths)
}

fn numbers(kernel: &str) -> Option<(u32, u32)> {
    let (major, minor) = kernel.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_how_they_begin() {
        let text = "| kernel | hook | needs |\n|---|---|---|\n| 5.10 | x | one |\n| 6.2 | x | two |\n| 6.12 | y | |\n";
        let cases = [
            ("5.10", &["x"][..], Some("one"), "its row"),
            ("6.12", &["x"], Some("two"), "the last one before it"),
            ("6.12", &["y"], Some(""), "an empty cell"),
            ("5.4", &["x"], None, "older than all"),
            ("7.2", &["z"], None, "no such row"),
        ];
        for (kernel, then, expected, why) in cases {
            assert_eq!(last_cell(text, kernel, then).as_deref(), expected, "{kernel}: {why}");
        }
    }

    #[test]
    fn commands_are_read_below_their_heading() {
        let text = "# Unit\n```sh\nno\n```\n\n## Install\n\nTwo:\n\n```sh\na\nb\n```\n\n## Remove\n\nnothing\n\n## Else\n```sh\nc\n```\n";
        assert_eq!(commands(text, "Install").as_deref(), Some("a\nb\n"));
        assert_eq!(commands(text, "Remove"), None, "the next heading is another matter");
        assert_eq!(commands(text, "Unit"), None, "a heading of another level");
    }

    #[test]
    fn exposures_are_in_tenths() {
        let text = "→ Overall exposure level for etcd-disk-probe.service: 2.7 OK\n";
        assert_eq!(exposure(text), Some(27));
        assert_eq!(exposure(&text.replace("2.7", "10.0")), Some(100));
        assert_eq!(exposure("Overall exposure level for other.service: 2.7"), None);
    }
}
