//! Runs other programs: prints the command, passes its output through, and turns a failure into one sentence.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fmt::Write};

use anyhow::{Context, Result, bail};

/// Returns the cargo that runs this program, which `rust-toolchain.toml` pins.
///
/// Flags and wrappers that a user has set for other work would change the build, so they are not inherited.
pub fn cargo() -> Command {
    clean(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Returns a command that inherits none of cargo's settings for the build of this program.
pub fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
    {
        command.env_remove(name);
    }
    // Cargo describes this package in variables that build scripts watch (ring's does). Inherited, they would
    // make a build by hand and a build from here invalidate each other.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| text.starts_with(prefix));
        // Flags for one target would be added to those set here.
        if of_package || text.starts_with("CARGO_TARGET_") && text.ends_with("_RUSTFLAGS") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command to its end and passes its output through.
pub fn run(command: &mut Command) -> Result<()> {
    let text = text(command);
    eprintln!("+ {text}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run `{text}`"))?;
    if !status.success() {
        bail!("cannot finish `{text}`: {status}");
    }
    Ok(())
}

/// Returns the standard output of a command; its standard error becomes part of the error.
pub fn capture(command: &mut Command) -> Result<String> {
    let text = text(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{text}`"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("cannot finish `{text}`: {}: {}", output.status, complaint.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("cannot read what `{text}` prints"))
}

/// Returns the path of a program, also from the directories of system tools, which are often not in a user's
/// PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Returns a command as it is typed in a shell.
pub fn text(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        // Writing to a string cannot fail.
        let _ = write!(text, " {}", argument.to_string_lossy());
    }
    text
}
