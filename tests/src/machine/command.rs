//! Runs the system's own tools (`losetup`, `mount`, `mkfs.*`, …) and turns a failure into one sentence.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Runs a command to its end and returns its standard output, trimmed.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start `{program}`; is it installed?"))?;
    if !output.status.success() {
        let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("cannot run `{program} {}`: {}: {}", words.join(" "), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Returns the path of a program. On Debian the `PATH` of an ordinary user lacks the directories of system
/// tools.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(system).map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_output() {
        assert_eq!(run("echo", &["one", "two"]).unwrap(), "one two");
        let failed = run("sh", &["-c", "echo the reason >&2; exit 3"]).unwrap_err().to_string();
        assert!(failed.contains("sh -c") && failed.contains("the reason"), "{failed}");
        let missing = run::<&str>("no-such-tool", &[]).unwrap_err().to_string();
        assert_eq!(missing, "cannot start `no-such-tool`; is it installed?");
    }
}
