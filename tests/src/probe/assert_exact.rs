//! Puts load on an etcd and compares the probe's counts with etcd's own.

use std::time::Duration;

use crate::etcd::Observations;
use crate::etcd::load::{Amount, Load};
use crate::machine::cancel::Cancel;
use crate::machine::http::Endpoint;
use crate::probe::Probe;
use crate::probe::crosscheck;

/// Enough puts for the probe to count some events.
const SOME_PUTS: u64 = 500;

/// Puts some keys.
///
/// # Panics
///
/// If etcd does not accept them.
pub fn put_some(etcd: &Endpoint) {
    let load = Load { amount: Amount::Puts(SOME_PUTS), connections: 2, value_bytes: 512, ..Load::default() };
    load.start(etcd.clone()).wait().unwrap();
}

/// Returns whether a sample equals this count.
pub fn is_count(sample: f64, count: u64) -> bool {
    (sample - count as f64).abs() < 0.5
}

/// Waits until the probe has counted every event of an idle etcd, according to etcd's own metrics, and agrees
/// with it.
///
/// # Panics
///
/// If it does not.
pub fn assert_exact(probe: &Probe, etcd: &Endpoint, label: &str) {
    let mut last = None;
    // The last commit follows the last put after a moment, and the scrape that includes it comes later still.
    let exact = Cancel::default().wait_for(Duration::from_mins(1), || {
        let figures = crosscheck::settle(probe, label)?;
        let own = Observations::of(etcd)?;
        let same =
            is_count(figures[0].kernel, own.wal_fsync) && is_count(figures[1].kernel, own.backend_commit);
        last = Some((figures, own));
        Ok(same.then_some(own))
    });
    let own = exact.unwrap().unwrap_or_else(|| panic!("{label}: the counts differ: {last:?}"));
    println!("{label}: both sides hold {own:?}");
    assert!(own.wal_fsync > 100, "{label}: the load shows");
    let metrics = probe.metrics().unwrap();
    assert_eq!(metrics.value("etcd_disk_probe_etcd_up", &[("member", label)]), Some(1.0), "{label}");
}
