//! One round of the cross-check: reads the kernel, scrapes etcd, reads the kernel again.

use std::{
    collections::BTreeMap,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use procfs::process::Process;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{
    MemberKey, SharedMonitor,
    environment::HostEnvironment,
    lock,
    member_state::{LastScrape, MemberState, ReexportCopy},
    wait_totals::WindowTotals,
    window::WindowPoint,
};
use crate::{
    analysis::{
        crosscheck::{KernelReading, Observations, Round},
        disk_metric::PerMetric,
        latency::Latencies,
        reexport,
    },
    discovery::ProcessId,
    etcd::{EtcdHistogram, Scrape},
    kernel::{Kernel, monotonic_ns},
};

/// The maximum difference between two readings of one start time: both derive from `btime` of `/proc/stat`, a
/// whole number of seconds that changes when the clock is set.
const START_TOLERANCE: Duration = Duration::from_millis(1_100);

/// The kernel divides CPU time into user and system time at every reading, so their sum may be off by two
/// ticks.
const CPU_TOLERANCE_S: f64 = 0.03;

/// Scrapes every running member that is not being scraped, all concurrently; returns when the last scrape has
/// ended.
pub async fn scrape_all(shared: &SharedMonitor) {
    let keys: Vec<MemberKey> = {
        let monitor = lock(shared);
        let alive = monitor.members.iter().filter(|(_, member)| member.client.is_some());
        alive.map(|(key, _)| key.clone()).collect()
    };
    let mut scrapes = JoinSet::new();
    for key in keys {
        scrapes.spawn(scrape(shared.clone(), key));
    }
    while let Some(ended) = scrapes.join_next().await {
        if let Err(error) = ended {
            warn!(%error, "a scrape task failed");
        }
    }
}

/// Scrapes one member, unless it is being scraped.
pub(super) async fn scrape(shared: SharedMonitor, key: MemberKey) {
    let (mut client, id, before) = {
        let mut monitor = lock(&shared);
        let super::Monitor { kernel, members, .. } = &mut *monitor;
        let Some(member) = members.get_mut(&key) else { return };
        let (Some(id), Some(client)) = (member.id(), member.client.take()) else { return };
        member.find_process(kernel);
        let before = PerMetric::from_fn(|metric| member.reading(kernel, metric).0);
        // The time of the reading is the time of its last part.
        let at_ns = monotonic_ns();
        let before = PerMetric::from_fn(|metric| KernelReading { at_ns, ..before[metric].clone() });
        (client, id, before)
    };
    let spent_before_s = cpu_s(id.pid);
    let requested_at = Instant::now();
    let result = client.scrape().await;
    let spent_s = spent_before_s.zip(cpu_s(id.pid));
    let mut monitor = lock(&shared);
    monitor.drain_sampler();
    let super::Monitor { kernel, members, host, omitted, scrape_ended, .. } = &mut *monitor;
    scrape_ended.send_replace(());
    // If the member was restarted in the meantime, the result does not apply to the new incarnation.
    let Some(member) = members.get_mut(&key).filter(|member| member.id() == Some(id)) else { return };
    if result.is_ok() {
        member.certificates.set_presented(client.presented());
    }
    member.client = Some(client);
    member.last_scrape_ended = Some(Instant::now());
    let mut message = String::new();
    let last_scrape = match result {
        Ok(mut scrape) if is_from(&scrape, id) && has_spent(&scrape, spent_s) => {
            let reexported = Arc::new(mem::take(&mut scrape.reexported));
            omitted.add(&reexported.omitted);
            member.copy = Some(ReexportCopy { requested_at, reexported });
            LastScrape::Done(Box::new(scrape))
        }
        Ok(_) => LastScrape::OtherProcess,
        Err(failure) => {
            let reason = failure.reason().as_str();
            *member.scrape_errors.entry(reason).or_default() += 1;
            message = failure.sentence();
            LastScrape::Failed { reason, error: failure.public_sentence() }
        }
    };
    log_change(member, &last_scrape, &message);
    member.last_scrape = last_scrape;
    record(member, kernel, host, &before);
    omitted.conflicting += conflicting(members, &key);
}

/// Returns how many samples of a member cannot be re-exported because they conflict with samples of other
/// members.
fn conflicting(members: &BTreeMap<MemberKey, MemberState>, of: &MemberKey) -> u64 {
    let Some(own) = members.get(of).and_then(MemberState::reexported) else { return 0 };
    let before = members.iter().take_while(|(key, _)| *key != of);
    reexport::conflicting(before.filter_map(|(_, member)| Some(&**member.reexported()?)), own)
}

/// Records the result of a scrape in the ledgers and the window.
fn record(
    member: &mut MemberState,
    kernel: &Kernel,
    host: &mut HostEnvironment,
    before: &PerMetric<KernelReading>,
) {
    member.find_process(kernel);
    let scraped = match &member.last_scrape {
        LastScrape::Done(scrape) => Some(PerMetric {
            wal_fsync: observations(&scrape.wal_fsync),
            backend_commit: observations(&scrape.backend_commit),
        }),
        _ => None,
    };
    let mut kernel_now = PerMetric::<Latencies>::default();
    let rounds = PerMetric::from_fn(|metric| {
        let (after, latencies) = member.reading(kernel, metric);
        kernel_now[metric] = latencies;
        scraped.as_ref().map(|etcd| {
            let round = Round { before: before[metric].clone(), etcd: etcd[metric].clone(), after };
            let outcome = member.ledger_mut(metric).observe(&round).unwrap_or_default();
            if let Some(gap) = outcome.sandwich {
                warn!(
                    member = member.label(),
                    metric = metric.as_str(),
                    gap,
                    "kernel and etcd disagree on the count"
                );
            }
            if let Some(breach) = outcome.dominance {
                warn!(
                    member = member.label(),
                    metric = metric.as_str(),
                    ?breach,
                    "the kernel measured longer than etcd"
                );
            }
            round
        })
    });
    let environment = member.environment();
    let (layers, owners) = host.activity(kernel.block(), environment.layers());
    let starvation = member.id().zip(environment.membership.as_ref());
    let totals = WindowTotals {
        by_metric: PerMetric::from_fn(|metric| member.wait_totals(kernel, metric)),
        layers,
        owners,
        starvation: starvation.map(|(id, membership)| host.starvation(id.pid, membership)),
    };
    member.window.push(WindowPoint { at_ns: monotonic_ns(), rounds, totals }, kernel_now);
}

/// Logs a lasting failure when it starts and when it ends. `message` may contain file names.
fn log_change(state: &MemberState, now: &LastScrape, message: &str) {
    let member = state.label();
    match (&state.last_scrape, now) {
        (LastScrape::Failed { reason: before, .. }, LastScrape::Failed { reason, .. })
            if before == reason => {}
        (_, LastScrape::Failed { reason, .. }) => warn!(member, reason, "cannot scrape etcd: {message}"),
        (LastScrape::OtherProcess, LastScrape::OtherProcess) => {}
        (_, LastScrape::OtherProcess) => {
            warn!(member, "the endpoint belongs to a process other than the traced one");
        }
        (LastScrape::Failed { .. } | LastScrape::OtherProcess, LastScrape::Done(_)) => {
            info!(member, "etcd can be scraped again");
        }
        _ => {}
    }
}

/// Returns whether a scrape comes from a process that started at the same time as the traced one. An etcd
/// version without this metric is accepted.
pub fn is_from(scrape: &Scrape, id: ProcessId) -> bool {
    let Some(scraped_s) = scrape.process_start_time_s else { return true };
    let Ok(boot_s) = procfs::boot_time_secs() else { return true };
    let started_s = boot_s as f64 + id.start_ticks as f64 / procfs::ticks_per_second() as f64;
    (scraped_s - started_s).abs() < START_TOLERANCE.as_secs_f64()
}

/// Returns whether the CPU time in a scrape lies between the CPU times that `/proc` reports for the traced
/// process before and after the scrape. Both are read from the same counters, in ticks.
fn has_spent(scrape: &Scrape, spent_s: Option<(f64, f64)>) -> bool {
    let (Some(scraped_s), Some((before_s, after_s))) = (scrape.process_cpu_s, spent_s) else { return true };
    (before_s - CPU_TOLERANCE_S..=after_s + CPU_TOLERANCE_S).contains(&scraped_s)
}

/// Returns the CPU time of a process, in seconds.
fn cpu_s(pid: u32) -> Option<f64> {
    let stat = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
    Some((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

fn observations(histogram: &EtcdHistogram) -> Observations {
    Observations { count: histogram.count, sum_s: histogram.sum_s, at_most: histogram.at_most }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{analysis::reexport::AllowList, etcd::Scrape};

    #[test]
    fn cpu_time_identifies_the_process() {
        let scraped = Scrape::parse(ETCD, &AllowList::nothing()).expect("metrics of an etcd");
        let scrape = |spent_s| Scrape { process_cpu_s: spent_s, ..scraped.clone() };
        let cases = [
            (Some(5.01), Some((5.0, 5.02)), true, "between both readings"),
            (Some(5.04), Some((5.0, 5.02)), true, "two ticks off"),
            (Some(5.2), Some((5.0, 5.02)), false, "another process with more CPU time"),
            (Some(1.0), Some((5.0, 5.02)), false, "another process with less CPU time"),
            (None, Some((5.0, 5.02)), true, "an etcd without the metric"),
            (Some(5.2), None, true, "a process that has ended"),
        ];
        for (scraped_s, spent_s, expected, why) in cases {
            assert_eq!(has_spent(&scrape(scraped_s), spent_s), expected, "{why}");
        }
    }

    const ETCD: &[u8] = include_bytes!("../../testdata/etcd-3.4.23-metrics.txt");
}
