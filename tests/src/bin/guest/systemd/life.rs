//! The life cycle of the unit: installed, started, hung, failed, stopped, removed.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use probe_tests::faults::evidence::Stopwatch;
use probe_tests::machine::process;
use probe_tests::machine::vm::documented;
use probe_tests::machine::vm::systemd::{CHECKOUT, UNIT};
use probe_tests::probe::loaded_programs::{self, Loaded};
use rustix::process::Signal;

use super::unit::{
    DropIn, LISTENS, TRACEPOINT, number, pid, probe, property, set_defaults, shell, systemctl, wait_for,
};
use super::{Trial, documentation};

/// The time limit for its start on an emulated CPU.
const START_LIMIT: Duration = Duration::from_mins(2);

/// The time limit for its stop: docs/web.md gives requests in flight 2 s.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The directories that could contain leftovers.
const PLACES: [&str; 9] =
    ["/dev/shm", "/etc", "/home", "/root", "/run", "/tmp", "/usr/lib/systemd", "/usr/local", "/var"];

/// The documented commands install it, and systemctl returns when it is ready: the first request is served.
pub fn is_installed(_: &mut Trial) -> anyhow::Result<String> {
    let commands = documented::commands(&documentation()?, "Install")
        .context("the documentation has no commands to install it")?;
    let begun = Instant::now();
    shell(&commands)?;
    let returned = begun.elapsed();
    let ready = probe().get("/-/ready").context("the probe does not answer after systemctl has returned")?;
    ensure!(ready.status == 200, "it is not ready once systemctl has returned: {ready:?}");
    for (name, expected) in
        [("Type", "notify"), ("ActiveState", "active"), ("SubState", "running"), ("UnitFileState", "enabled")]
    {
        let found = property(UNIT, name)?;
        ensure!(found == expected, "{name} is {found}, not {expected}");
    }
    let started = number(UNIT, "ExecMainStartTimestampMonotonic")?;
    let active = number(UNIT, "ActiveEnterTimestampMonotonic")?;
    let until_ready = Duration::from_micros(active.saturating_sub(started));
    Ok(format!("ready {until_ready:.2?} after its start; the commands took {returned:.2?}"))
}

/// A hung probe is restarted after the time in the unit and no later.
pub fn is_restarted_when_it_hangs(_: &mut Trial) -> anyhow::Result<String> {
    let watchdog = Duration::from_micros(number_of_time("WatchdogUSec")?);
    ensure!(watchdog > Duration::ZERO, "there is no watchdog");
    let rest = Duration::from_micros(number_of_time("RestartUSec")?);
    let (hung, before) = (pid()?, number(UNIT, "NRestarts")?);
    process::send(hung, Signal::STOP)?;
    let (since, stopwatch) = (Instant::now(), Stopwatch::start());
    wait_for("systemd detects the hang", watchdog + START_LIMIT, || {
        Ok((property(UNIT, "Result")? == "watchdog").then_some(()))
    })?;
    let noticed = stopwatch.stop();
    ensure!(noticed.when_idle() < watchdog + Duration::from_secs(5), "noticed after {noticed}");
    wait_for("another one runs", rest + START_LIMIT, || {
        let again = number(UNIT, "NRestarts")? == before + 1 && property(UNIT, "SubState")? == "running";
        Ok((again && pid()? != hung).then_some(()))
    })?;
    let running = since.elapsed();
    let ready = probe().get("/-/ready")?;
    ensure!(ready.status == 200, "the new one is not ready: {ready:?}");
    Ok(format!("noticed after {noticed}, ready again after {running:.1?}; WatchdogSec {watchdog:?}"))
}

/// Parses a time in the notation of `systemctl show`: `30s`, `5s`.
fn number_of_time(name: &str) -> anyhow::Result<u64> {
    let value = property(UNIT, name)?;
    let seconds = value.strip_suffix('s').and_then(|number| number.parse::<u64>().ok());
    Ok(seconds.with_context(|| format!("cannot read {name}: `{value}`"))? * 1_000_000)
}

/// Exit codes that require an operator end the unit; an exit code that time may fix causes a restart.
pub fn is_not_restarted_in_vain(_: &mut Trial) -> anyhow::Result<String> {
    systemctl(&["stop", UNIT])?;
    let cases = [
        (64, "ETCD_DISK_PROBE_WINDOW=nonsense", ""),
        (66, "ETCD_DISK_PROBE_CACERT=/nowhere/ca.crt", ""),
        (69, "", "InaccessiblePaths=/sys/kernel/btf"),
        (77, "", "CapabilityBoundingSet=\nAmbientCapabilities="),
    ];
    let mut codes = Vec::new();
    for (code, defaults, settings) in cases {
        set_defaults(&format!("{defaults}\n"))?;
        let drop_in = (!settings.is_empty()).then(|| DropIn::add(UNIT, settings)).transpose()?;
        systemctl(&["reset-failed", UNIT])?;
        ensure!(systemctl(&["start", UNIT]).is_err(), "{code}: it has started");
        let ended =
            [property(UNIT, "ExecMainStatus")?, property(UNIT, "SubState")?, property(UNIT, "NRestarts")?];
        ensure!(ended == [&code.to_string(), "failed", "0"], "{code}: ended as {ended:?}");
        codes.push(code.to_string());
        drop(drop_in);
    }
    set_defaults(TRACEPOINT)?;
    systemctl(&["reset-failed", UNIT])?;
    let taken = TcpListener::bind(LISTENS).context("cannot bind the probe's address")?;
    ensure!(systemctl(&["start", UNIT]).is_err(), "it has started at an address that is taken");
    let state = [property(UNIT, "ExecMainStatus")?, property(UNIT, "SubState")?];
    ensure!(state == ["71", "auto-restart"], "an address that is taken: {state:?}");
    drop(taken);
    wait_for("it tries again", START_LIMIT, || Ok((property(UNIT, "SubState")? == "running").then_some(())))?;
    Ok(format!("{} end it; 71 is tried again", codes.join(", ")))
}

/// It ends in time and takes everything with it; the documented commands remove the rest.
pub fn leaves_nothing(trial: &mut Trial) -> anyhow::Result<String> {
    let pid = pid()?;
    let held = loaded_programs::of(pid);
    let with = Loaded::now()?;
    ensure!(!held.is_empty() && held.is_subset(&with.programs), "{held:?} of {with:?}");
    let since = Stopwatch::start();
    systemctl(&["stop", UNIT])?;
    let took = since.stop();
    ensure!(took.when_idle() < STOP_LIMIT, "it took {took} to stop");
    let ended = [property(UNIT, "ActiveState")?, property(UNIT, "Result")?];
    ensure!(ended == ["inactive", "success"], "ended as {ended:?}");
    // The kernel frees unreferenced objects a little later. systemd itself may have probed the kernel's
    // features and have released those objects by now.
    wait_for("nothing of BPF is left", Duration::from_secs(30), || {
        let now = Loaded::now()?;
        let is_clean = now.is_within(&trial.before);
        is_clean.then_some(Some(())).with_context(|| format!("{now:?}, before {:?}", trial.before))
    })?;
    let commands = documented::commands(&documentation()?, "Remove")
        .context("the documentation has no commands to remove it")?;
    shell(&commands)?;
    let state = property(UNIT, "LoadState")?;
    ensure!(state == "not-found", "its unit is {state}");
    let left: Vec<_> = PLACES.iter().flat_map(|place| named_here(Path::new(place))).collect();
    ensure!(left.is_empty(), "files are left: {left:?}");
    let gone = |with: &BTreeSet<u32>, before: &BTreeSet<u32>| with.difference(before).count();
    Ok(format!(
        "stopped in {took}; {} programs, {} maps and {} links are gone, and every file",
        gone(&with.programs, &trial.before.programs),
        gone(&with.maps, &trial.before.maps),
        gone(&with.links, &trial.before.links)
    ))
}

/// Returns the files named after the probe below a directory, without the checkout.
fn named_here(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.starts_with(CHECKOUT) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains("etcd-disk-probe") {
            found.push(path.clone());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(named_here(&path));
        }
    }
    found
}
