//! Reads the machine's apt configuration: the user chooses the mirrors.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The key ring that Debian's packages install.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One archive of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
    pub suite: String,
    pub components: Vec<String>,
    /// A key ring's path. `None` if the entry names none, or holds the key itself.
    pub signed_by: Option<String>,
}

impl Source {
    /// Returns the line of a `sources.list` for this archive, restricted to the lists of packages.
    pub fn line(&self) -> String {
        let keyring = self
            .signed_by
            .clone()
            .or_else(|| Path::new(DEBIAN_KEYRING).is_file().then(|| DEBIAN_KEYRING.to_owned()));
        let signed_by = keyring.map_or_else(String::new, |path| format!(" signed-by={path}"));
        format!("deb [target=Packages{signed_by}] {} {} main\n", self.uri, self.suite)
    }
}

/// Returns the archives of the system's own suite: the main one first, then updates and security.
pub fn of_this_system() -> Result<Vec<Source>> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let mut all = Vec::new();
    if let Ok(text) = fs::read_to_string("/etc/apt/sources.list") {
        all.extend(parse_lines(&text));
    }
    let mut parts: Vec<_> = fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    parts.sort();
    for path in parts {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => all.extend(parse_lines(&text)),
            Some("sources") => all.extend(parse_stanzas(&text)),
            _ => {} // apt ignores other extensions, too.
        }
    }
    let Some(codename) = codename(&release) else {
        bail!("cannot find the suite of this system: /etc/os-release has no VERSION_CODENAME");
    };
    let own = select(all, codename);
    if own.is_empty() {
        bail!("cannot find the archive of `{codename}` in the configuration of apt");
    }
    Ok(own)
}

/// Returns whether this system can use packages of Debian's suites.
pub fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release")
        .is_ok_and(|text| text.lines().any(|line| line.trim_matches('"') == "ID=debian"))
}

fn codename(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"')).filter(|name| !name.is_empty())
}

/// Keeps the system's own archives. Vendors use the names of Debian's suites too, so archives with another
/// key come last.
fn select(all: Vec<Source>, codename: &str) -> Vec<Source> {
    let rank = |source: &Source| {
        let foreign = source.signed_by.as_ref().is_some_and(|path| !path.contains("archive-keyring"));
        (foreign, source.suite != codename)
    };
    let mut own: Vec<_> = all
        .into_iter()
        .filter(|source| {
            let rest = source.suite.strip_prefix(codename);
            rest.is_some_and(|rest| ["", "-updates", "-security"].contains(&rest))
                && source.components.iter().any(|component| component == "main")
        })
        .collect();
    own.sort_by_key(rank);
    own.dedup();
    own
}

/// Reads the one-line format: `deb [signed-by=…] URI SUITE COMPONENT…`.
fn parse_lines(text: &str) -> Vec<Source> {
    let parse = |line: &str| {
        let line = line.split('#').next()?.trim().strip_prefix("deb ")?.trim();
        let (options, rest) = match line.strip_prefix('[') {
            Some(line) => line.split_once(']')?,
            None => ("", line),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        Some(Source {
            uri: words.next()?,
            suite: words.next()?,
            components: words.collect(),
            signed_by: options
                .split_whitespace()
                .find_map(|option| option.strip_prefix("signed-by="))
                .map(str::to_owned),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Reads the deb822 format: stanzas of `Field: value`, one source for each address and suite.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect();
    let mut sources = Vec::new();
    for stanza in text.split("\n\n") {
        let words = |name: &str| -> Vec<String> {
            field(stanza, name).split_whitespace().map(str::to_owned).collect()
        };
        if field(stanza, "Enabled").trim() == "no" || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        let signed_by = words("Signed-By").into_iter().next().filter(|path| path.starts_with('/'));
        for uri in words("URIs") {
            for suite in words("Suites") {
                sources.push(Source {
                    uri: uri.clone(),
                    suite,
                    components: words("Components"),
                    signed_by: signed_by.clone(),
                });
            }
        }
    }
    sources
}

/// Returns a field's value with its continuation lines, empty if it is absent.
fn field(stanza: &str, name: &str) -> String {
    let mut value = String::new();
    let mut inside = false;
    for line in stanza.lines() {
        if line.starts_with([' ', '\t']) {
            if inside {
                value.push_str(line);
            }
            continue;
        }
        let (key, rest) = line.split_once(':').unwrap_or((line, ""));
        inside = key.eq_ignore_ascii_case(name);
        if inside {
            value.push_str(rest);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, signed_by: Option<&str>) -> Source {
        let components = vec!["main".to_owned()];
        Source { uri: uri.into(), suite: suite.into(), components, signed_by: signed_by.map(str::to_owned) }
    }

    #[test]
    fn one_line_entries() {
        let cases = [
            ("deb http://m/debian bookworm main", vec![source("http://m/debian", "bookworm", None)], "plain"),
            (
                "deb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main # ours",
                vec![source("http://m/debian", "bookworm", Some("/k.gpg"))],
                "options and a comment",
            ),
            ("deb-src http://m/debian bookworm main", vec![], "sources are no packages"),
            ("# deb http://m/debian bookworm main", vec![], "commented out"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(parse_lines(text), expected, "{why}");
        }
    }

    #[test]
    fn stanzas() {
        let two = "Types: deb\n# a comment\nURIs: http://m/debian\nSuites: bookworm\n bookworm-updates\n\
                   Components: main\nSigned-By: /k.gpg\n";
        let cases = [
            (
                two.to_owned(),
                vec![
                    source("http://m/debian", "bookworm", Some("/k.gpg")),
                    source("http://m/debian", "bookworm-updates", Some("/k.gpg")),
                ],
                "one for each suite, continuation lines and comments included",
            ),
            (format!("Enabled: no\n{two}"), vec![], "switched off"),
            (two.replace("Types: deb", "Types: deb-src"), vec![], "sources are no packages"),
            (
                two.replace(" bookworm-updates\n", "").replace(" /k.gpg", "\n -----BEGIN"),
                vec![source("http://m/debian", "bookworm", None)],
                "a key written into the entry is no path",
            ),
        ];
        for (text, expected, why) in cases {
            assert_eq!(parse_stanzas(&text), expected, "{why}");
        }
    }

    #[test]
    fn the_systems_own_archive_comes_first() {
        let vendor = source("http://vendor", "bookworm", Some("/vendor.gpg"));
        let security = source("http://m/security", "bookworm-security", None);
        let own =
            source("http://m/debian", "bookworm", Some("/usr/share/keyrings/debian-archive-keyring.gpg"));
        let other = source("http://m/debian", "cloud-bookworm", None);
        let selected = select(vec![vendor.clone(), security.clone(), other, own.clone()], "bookworm");
        assert_eq!(selected, [own, security, vendor]);
    }

    #[test]
    fn codename_of_os_release() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("ID=alpine\n"), None, "not every system has one");
    }
}
