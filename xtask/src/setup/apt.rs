//! Fetches and unpacks packages outside of the system, in a private state of apt that needs no root, and
//! installs packages in the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::sources::Source;
use crate::process::{capture, find, run};

/// A state of apt that shares only the addresses of mirrors with the system's.
pub struct Apt {
    directory: PathBuf,
}

/// The architecture of the packages in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// The architecture of the system.
    Own,
    /// Another one, by Debian's name. Its programs are unpacked and never run here.
    Other(&'static str),
}

impl Apt {
    /// Creates the state in `directory` and fetches the lists of these archives.
    pub fn update(directory: PathBuf, sources: &[Source], architecture: Architecture) -> Result<Self> {
        if find("apt-get").is_none() || find("dpkg").is_none() {
            bail!("cannot fetch packages: this system has no apt-get");
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = directory.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot create {}", part.display()))?;
        }
        let list: String = sources.iter().map(Source::line).collect();
        for (name, text) in [("sources.list", list), ("apt.conf", configuration(&directory, architecture))] {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let apt = Self { directory };
        // By default apt-get reports success when it could not fetch a list.
        run(apt.command("apt-get").args(["--quiet=2", "--error-on=any", "update"]))?;
        Ok(apt)
    }

    /// Returns the version that apt would install.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let policy = capture(self.command("apt-cache").args(["policy", package]))?;
        Ok(parse_candidate(&policy))
    }

    /// Returns the names of the packages that one version of a package depends on.
    pub fn depends(&self, package: &str, version: &str) -> Result<Vec<String>> {
        let package = format!("{package}={version}");
        let show = capture(self.command("apt-cache").args(["show", "--no-all-versions", &package]))?;
        Ok(parse_depends(&show))
    }

    /// Returns all packages that an empty system would install for these, as `NAME=VERSION`.
    pub fn closure(&self, packages: &[&str]) -> Result<Vec<String>> {
        let installed = self.directory.join("nothing-installed");
        fs::write(&installed, "").with_context(|| format!("cannot write {}", installed.display()))?;
        let status = format!("Dir::State::status={}", installed.display());
        let mut install = self.command("apt-get");
        install.args(["--simulate", "--no-install-recommends", "--option", &status, "install"]);
        let output = capture(install.args(packages))?;
        Ok(parse_simulation(&output))
    }

    /// Downloads packages (`name` or `name=version`) and unpacks them into a directory.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let downloads = into.with_extension("debs");
        let _ = fs::remove_dir_all(&downloads); // Of an interrupted setup.
        fs::create_dir_all(&downloads).with_context(|| format!("cannot create {}", downloads.display()))?;
        run(self.command("apt-get").args(["--quiet=2", "download"]).args(packages).current_dir(&downloads))?;
        let entries =
            fs::read_dir(&downloads).with_context(|| format!("cannot read {}", downloads.display()))?;
        for entry in entries {
            let package = entry.with_context(|| format!("cannot read {}", downloads.display()))?.path();
            run(Command::new("dpkg").arg("-x").arg(package).arg(into))?;
        }
        fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))
    }

    /// Settings are in a file, so that the printed commands stay readable.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.directory.join("apt.conf")).env("LC_ALL", "C");
        command
    }
}

/// Returns the settings of a private state.
fn configuration(directory: &Path, architecture: Architecture) -> String {
    let directory = directory.display();
    let architecture = match architecture {
        Architecture::Own => String::new(),
        // The list is cleared first: the system's own architecture would stay in it.
        Architecture::Other(name) => {
            format!(
                "APT::Architecture \"{name}\";\n#clear APT::Architectures;\nAPT::Architectures {{ \"{name}\"; }};\n"
            )
        }
    };
    format!(
        "Dir::Etc::SourceList \"{directory}/sources.list\";\n\
         Dir::Etc::SourceParts \"/dev/null\";\n\
         Dir::State::Lists \"{directory}/lists\";\n\
         Dir::Cache \"{directory}/cache\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         // As root, apt would otherwise download as a user who may not write here.\n\
         APT::Sandbox::User \"root\";\n\
         {architecture}"
    )
}

/// Installs packages in the system: as root, or through sudo if it requires no password.
pub fn install(packages: &[String]) -> Result<()> {
    let line = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if find("apt-get").is_none() {
        bail!("cannot install {}: this system has no apt-get", packages.join(" "));
    }
    let root = capture(Command::new("id").arg("-u"))?.trim() == "0";
    let sudo = || capture(Command::new("sudo").args(["-n", "true"])).is_ok();
    let prefix: &[&str] = match (root, !root && sudo()) {
        (true, _) => &["env"],
        (_, true) => &["sudo", "-n", "env"],
        _ => bail!("cannot install packages without root; run `sudo {line}` and try again"),
    };
    let apt_get = || {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2"]);
        command
    };
    // A broken archive of a third party must not prevent an installation from Debian's.
    if let Err(error) = run(apt_get().arg("update")) {
        eprintln!("setup: {error:#}; continuing with the existing lists");
    }
    run(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

fn parse_candidate(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

fn parse_depends(show: &str) -> Vec<String> {
    let line = show.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    line.split([',', '|']).filter_map(|item| item.split_whitespace().next()).map(str::to_owned).collect()
}

/// Reads lines of `Inst NAME (VERSION ARCHIVE [ARCHITECTURE])`.
fn parse_simulation(output: &str) -> Vec<String> {
    let parse = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        Some(format!("{name}={}", rest.split(' ').next()?))
    };
    output.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates() {
        let cases = [
            ("x:\n  Installed: (none)\n  Candidate: 1:2-3\n", Some("1:2-3"), "a version"),
            ("x:\n  Installed: (none)\n  Candidate: (none)\n", None, "known by name only"),
            ("", None, "unknown"),
        ];
        for (policy, expected, why) in cases {
            assert_eq!(parse_candidate(policy).as_deref(), expected, "{why}");
        }
    }

    #[test]
    fn dependencies() {
        let show = "Package: a\nDepends: libstd-rust-web-1.96 (= 1.96.0+dfsg1-1~deb12u2), b | c:any\n";
        assert_eq!(parse_depends(show), ["libstd-rust-web-1.96", "b", "c:any"]);
        assert!(parse_depends("Package: a\n").is_empty(), "a package may depend on nothing");
    }

    #[test]
    fn simulated_installations() {
        let output = "Reading package lists...\nInst libc6 (2.36-9+deb12u13 Debian:12/oldstable [amd64]) []\n\
                    Inst dmsetup (2:1.02.185-2 Debian:12/oldstable [amd64])\n\
                    Conf libc6 (2.36-9+deb12u13 Debian:12/oldstable [amd64])\n";
        assert_eq!(parse_simulation(output), ["libc6=2.36-9+deb12u13", "dmsetup=2:1.02.185-2"]);
    }
}
