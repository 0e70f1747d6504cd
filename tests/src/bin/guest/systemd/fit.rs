//! The properties of the machine, and how few privileges the unit has in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use probe_tests::machine::process;
use probe_tests::machine::vm::documented;
use probe_tests::machine::vm::systemd::UNIT;
use probe_tests::probe::loaded_programs::Loaded;
use rustix::thread::CapabilitySet;

use super::unit::{pid, systemctl};
use super::{Trial, documentation};

const READING: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// As in the unit and in docs/kernels.md.
const STARTING: CapabilitySet =
    READING.union(CapabilitySet::BPF).union(CapabilitySet::PERFMON).union(CapabilitySet::SYS_ADMIN);

/// The threads that keep one more capability: ARCHITECTURE.md gives the reason.
const PRIVILEGED: [&str; 2] = ["namespaces", "stacks"];

/// Systemd is the first program, and none of its units has failed.
pub fn boots(trial: &mut Trial) -> anyhow::Result<String> {
    let first = fs::read_link("/proc/1/exe").context("cannot read the path of the first program")?;
    ensure!(first == Path::new("/usr/lib/systemd/systemd"), "the first program is {}", first.display());
    let uptime = fs::read_to_string("/proc/uptime").context("cannot read /proc/uptime")?;
    let failed = systemctl(&["list-units", "--state=failed", "--plain", "--no-legend"])?;
    ensure!(failed.is_empty(), "units have failed: {failed}");
    trial.before = Loaded::now()?;
    let version = systemctl(&["--version"])?;
    Ok(format!(
        "{}, {} s after the kernel",
        version.lines().next().unwrap_or_default(),
        uptime.split(' ').next().unwrap_or_default()
    ))
}

/// The user is unique to the unit, and each thread has only the capabilities for reading.
pub fn keeps_only_privileges_to_read(_: &mut Trial) -> anyhow::Result<String> {
    let tasks = format!("/proc/{}/task", pid()?);
    let tasks = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
    let threads: Vec<PathBuf> = tasks.flatten().map(|task| task.path()).collect();
    let mut names = Vec::new();
    for thread in &threads {
        let name = fs::read_to_string(thread.join("comm")).context("cannot read the name of a thread")?;
        let name = name.trim().to_owned();
        let status = thread.join("status");
        let is_privileged = PRIVILEGED.contains(&name.as_str());
        let kept = if is_privileged { READING | CapabilitySet::SYS_ADMIN } else { READING };
        let none = CapabilitySet::empty();
        for (field, expected) in
            [("CapPrm", kept), ("CapEff", kept), ("CapInh", none), ("CapAmb", none), ("CapBnd", STARTING)]
        {
            let held = process::capabilities(&status, field)?;
            ensure!(held == expected, "{field} of thread {name} is {held:?}, not {expected:?}");
        }
        let text = fs::read_to_string(&status).context("cannot read the status of a thread")?;
        for (field, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
            ensure!(value(&text, field) == Some(expected), "{field} of thread {name}: {text}");
        }
        let user: u32 = value(&text, "Uid").context("a thread has a user")?.parse()?;
        // The range of `DynamicUser=` (systemd.exec(5)).
        ensure!((61184..=65519).contains(&user), "thread {name} is of user {user}");
        names.push(name);
    }
    for expected in PRIVILEGED {
        ensure!(names.iter().any(|name| name == expected), "no thread {expected}: {names:?}");
    }
    Ok(format!("{} threads: {}", names.len(), names.join(", ")))
}

/// Returns the first word of a field in a status file.
fn value<'a>(status: &'a str, field: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()
}

/// systemd has no complaint about the unit, and rates it no more exposed than the documentation.
pub fn is_as_closed_as_documented(_: &mut Trial) -> anyhow::Result<String> {
    let verify = Command::new("systemd-analyze").args(["verify", UNIT]).output();
    let verify = verify.context("cannot start systemd-analyze")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&verify.stdout), String::from_utf8_lossy(&verify.stderr));
    ensure!(verify.status.success() && said.is_empty(), "systemd-analyze verify: {}: {said}", verify.status);

    let stated = documented::exposure(&documentation()?).context("docs/systemd.md states no exposure")?;
    let security =
        Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager", UNIT]).output();
    let security = security.context("cannot start systemd-analyze")?;
    let said = String::from_utf8_lossy(&security.stdout).into_owned();
    let found =
        documented::exposure(&said).with_context(|| format!("systemd-analyze states no exposure: {said}"))?;
    ensure!(
        found == stated,
        "systemd-analyze finds {found} tenths, and docs/systemd.md says {stated}: {said}"
    );
    Ok(format!("verified; exposure {}.{}", found / 10, found % 10))
}
