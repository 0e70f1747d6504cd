//! Access to systemd, and to the probe in its unit.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::command;
use probe_tests::machine::http::Endpoint;
use probe_tests::machine::vm::systemd::{CHECKOUT, UNIT};
use probe_tests::probe::metrics::Metrics;

/// The probe's default listen address.
pub const LISTENS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 12381);

pub const DEFAULT_FILE: &str = "/etc/default/etcd-disk-probe";

/// A setting for the default file.
pub const TRACEPOINT: &str = "ETCD_DISK_PROBE_HOOK=tracepoint\n";

/// Runs systemctl.
pub fn systemctl(words: &[&str]) -> anyhow::Result<String> {
    command::run("systemctl", words)
}

/// Returns the present value of a unit's property.
pub fn property(unit: &str, name: &str) -> anyhow::Result<String> {
    systemctl(&["show", "--value", "--property", name, unit])
}

pub fn number(unit: &str, name: &str) -> anyhow::Result<u64> {
    let value = property(unit, name)?;
    value.parse().with_context(|| format!("cannot read {name} of {unit}: `{value}`"))
}

/// Returns the pid of the probe.
pub fn pid() -> anyhow::Result<u32> {
    Ok(u32::try_from(number(UNIT, "MainPID")?)?)
}

/// Runs commands of the documentation in the checkout.
pub fn shell(commands: &str) -> anyhow::Result<String> {
    command::run("sh", &["-e", "-c", &format!("cd {CHECKOUT}\n{commands}")])
}

pub fn probe() -> Endpoint {
    Endpoint::plain(LISTENS)
}

pub fn metrics() -> anyhow::Result<Metrics> {
    Metrics::parse(&probe().get("/metrics")?.text()?)
}

/// Waits until a condition holds; the error describes what does not.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let mut last = None;
    let found = Cancel::default().wait_for(limit, || {
        // A starting daemon refuses connections.
        let outcome = holds();
        Ok(match outcome {
            Ok(found) => found,
            Err(error) => {
                last = Some(error);
                None
            }
        })
    })?;
    let last = last.map(|error| format!("; {error:#}")).unwrap_or_default();
    found.with_context(|| format!("{what}: not after {limit:?}{last}"))
}

/// Settings that a step adds to a unit. Removed on drop.
#[must_use]
pub struct DropIn(PathBuf);

impl DropIn {
    pub fn add(unit: &str, settings: &str) -> anyhow::Result<Self> {
        let directory = PathBuf::from(format!("/run/systemd/system/{unit}.d"));
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join("of-the-test.conf");
        fs::write(&path, format!("[Service]\n{settings}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
        let added = Self(directory);
        systemctl(&["daemon-reload"])?;
        Ok(added)
    }
}

impl Drop for DropIn {
    fn drop(&mut self) {
        let undone =
            fs::remove_dir_all(&self.0).map_err(Into::into).and_then(|()| systemctl(&["daemon-reload"]));
        if let Err(error) = undone {
            println!("guest: cannot remove a setting: {error:#}");
        }
    }
}

/// Replaces the default file.
pub fn set_defaults(lines: &str) -> anyhow::Result<()> {
    fs::write(Path::new(DEFAULT_FILE), lines).with_context(|| format!("cannot write {DEFAULT_FILE}"))
}

/// Returns the end of the unit's log, for the message of a failure.
pub fn journal() -> String {
    let words = ["--unit", UNIT, "--lines", "12", "--no-pager", "--output", "cat"];
    command::run("journalctl", &words).unwrap_or_else(|error| format!("{error:#}"))
}
