//! The probe's main function, within the restrictions of its unit.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use probe_tests::etcd::Observations;
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::machine::http::Endpoint;
use probe_tests::machine::vm::systemd::{ETCD_UNIT, UNIT};
use probe_tests::probe::crosscheck::{self, Crosscheck};

use super::Trial;
use super::unit::{DropIn, TRACEPOINT, metrics, number, property, set_defaults, systemctl, wait_for};

/// etcd's name in its unit.
const MEMBER: &str = "of-systemd";

const LOAD: Load = Load {
    amount: Amount::PutsWithin(200, Duration::from_mins(2)),
    connections: 2,
    value_bytes: 512,
    keys: 100,
    tolerant: false,
};

/// With fewer syncs than this the step shows little.
const SYNCS: u64 = 50;

/// The time limit for the probe to agree: scrapes are 5 s apart.
const AGREES_LIMIT: Duration = Duration::from_mins(2);

fn etcd() -> Endpoint {
    Endpoint::plain(SocketAddr::from((Ipv4Addr::LOCALHOST, 2379)))
}

/// Waits until the probe reports that every event is matched.
fn settle() -> anyhow::Result<[Crosscheck; 2]> {
    wait_for("the probe agrees with etcd", AGREES_LIMIT, || {
        let metrics = metrics()?;
        let is_up = metrics.value("etcd_disk_probe_etcd_up", &[("member", MEMBER)]) == Some(1.0);
        let figures = crosscheck::of(&metrics, MEMBER).filter(|_| is_up);
        let settled = figures.clone().filter(|figures| figures.iter().all(Crosscheck::is_settled));
        settled.map(Some).with_context(|| format!("etcd_up {is_up}, {figures:?}"))
    })
}

fn hook() -> anyhow::Result<String> {
    Ok(metrics()?.label_values("etcd_disk_probe_hook_info", "hook").join(", "))
}

fn misses() -> anyhow::Result<String> {
    let metrics = metrics()?;
    let all = metrics.all("etcd_disk_probe_misses_total", &[]).filter(|sample| sample.value > 0.0);
    let misses: Vec<_> = all
        .map(|it| format!("{} {}", it.value, it.labels.get("reason").map_or("", String::as_str)))
        .collect();
    Ok(if misses.is_empty() { "none".to_owned() } else { misses.join(", ") })
}

/// An etcd that systemd starts as another user is discovered, scraped and reconciled.
pub fn agrees(_: &mut Trial) -> anyhow::Result<String> {
    systemctl(&["start", ETCD_UNIT])?;
    let done = LOAD.start(etcd()).wait()?;
    let (own, figures) = wait_for("both sides hold the same", AGREES_LIMIT, || {
        let figures = settle()?;
        let own = Observations::of(&etcd())?;
        let same = |kernel: f64, etcd: u64| (kernel - etcd as f64).abs() < 0.5;
        let equal = same(figures[0].kernel, own.wal_fsync) && same(figures[1].kernel, own.backend_commit);
        equal.then_some(Some((own, figures.clone()))).with_context(|| format!("{own:?}, {figures:?}"))
    })?;
    ensure!(own.wal_fsync >= SYNCS, "only {own:?} of {done:?}");
    let stacks = metrics()?.sum("etcd_disk_probe_misses_total", &[("reason", "stack_unreadable")]);
    Ok(format!(
        "{}: wal_fsync kernel {} = etcd {}, backend_commit kernel {} = etcd {}, difference 0; {stacks} stacks unreadable; misses: {}",
        hook()?,
        figures[0].kernel,
        own.wal_fsync,
        figures[1].kernel,
        own.backend_commit,
        misses()?
    ))
}

/// The unit's namespaces allow the one required exit: into another network namespace.
pub fn agrees_in_another_network(_: &mut Trial) -> anyhow::Result<String> {
    let before = settle()?;
    let elsewhere = DropIn::add(ETCD_UNIT, "PrivateNetwork=yes")?;
    systemctl(&["restart", ETCD_UNIT])?;
    ensure!(!etcd().listens(), "etcd is still in this network");
    let network = format!("/proc/{}/ns/net", number(ETCD_UNIT, "MainPID")?);
    LOAD.start(etcd().in_network(network.into())).wait()?;
    let after = wait_for("the new etcd is reconciled", AGREES_LIMIT, || {
        let figures = settle()?;
        Ok((figures[0].etcd - before[0].etcd >= SYNCS as f64).then_some(figures))
    })?;
    drop(elsewhere);
    systemctl(&["restart", ETCD_UNIT])?;
    Ok(format!("{} syncs of it, difference 0", after[0].etcd - before[0].etcd))
}

/// `systemctl status` shows the hook, the member and its verdict.
pub fn tells_its_status(_: &mut Trial) -> anyhow::Result<String> {
    let verdict = format!("{MEMBER} ");
    let expected = ["attached by fentry", verdict.as_str()];
    wait_for("the status is reported", AGREES_LIMIT, || {
        let status = property(UNIT, "StatusText")?;
        let is_it = expected.iter().all(|part| status.contains(part)) && !status.contains("not judged yet");
        is_it.then_some(Some(status.clone())).with_context(|| format!("`{status}`"))
    })
}

/// A variable in the default file has the effect of its flag; and the other hook works in the unit too.
pub fn takes_its_settings(_: &mut Trial) -> anyhow::Result<String> {
    set_defaults(TRACEPOINT)?;
    systemctl(&["restart", UNIT])?;
    let hook = hook()?;
    ensure!(hook == "tracepoint", "the hook is {hook}");
    LOAD.start(etcd()).wait()?;
    let figures = settle()?;
    ensure!(figures[0].measured >= SYNCS as f64, "only {figures:?}");
    Ok(format!("{hook}, {} syncs, difference 0; misses: {}", figures[0].measured, misses()?))
}
