//! One round of the cross-check: the kernel, etcd, the kernel again.

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
    environment::Host,
    lock,
    member_state::{Copy, LastScrape, MemberState},
    wait_totals::{Losses, Lost},
    window::Point,
};
use crate::{
    analysis::{
        crosscheck::{KernelReading, Observations, Round},
        disk_metric::PerMetric,
        latency::Latencies,
        reexport,
    },
    discovery::ProcessId,
    etcd::{Histogram, Scrape},
    kernel::{Kernel, monotonic_ns},
};

/// How far two readings of a process's start may lie apart: both come from `/proc/stat`'s `btime`, a whole number of
/// seconds that moves when the clock is set.
const SAME_START: Duration = Duration::from_millis(1_100);

/// The kernel splits the time between user and system anew at every reading, so that their sum may be two ticks off.
const CPU_SLACK_S: f64 = 0.03;

/// Scrapes every member that is alive and not being scraped, all at once; ends when the last has ended.
pub async fn scrape_all(shared: &SharedMonitor) {
    let keys: Vec<MemberKey> = {
        let monitor = lock(shared);
        let alive = monitor.members.iter().filter(|(_, tracked)| tracked.client.is_some());
        alive.map(|(key, _)| key.clone()).collect()
    };
    let mut scrapes = JoinSet::new();
    for key in keys {
        scrapes.spawn(scrape(shared.clone(), key));
    }
    while let Some(ended) = scrapes.join_next().await {
        if let Err(error) = ended {
            warn!(%error, "a scrape broke off");
        }
    }
}

/// Scrapes one member, unless it is being scraped.
pub(super) async fn scrape(shared: SharedMonitor, key: MemberKey) {
    let (mut client, id, before) = {
        let mut monitor = lock(&shared);
        let super::Monitor { kernel, members, .. } = &mut *monitor;
        let Some(tracked) = members.get_mut(&key) else { return };
        let (Some(id), Some(client)) = (tracked.id(), tracked.client.take()) else { return };
        tracked.locate(kernel);
        let before = PerMetric::from_fn(|metric| tracked.reading(kernel, metric).0);
        // The reading's time is when its last part was read.
        let at_ns = monotonic_ns();
        let before = PerMetric::from_fn(|metric| KernelReading { at_ns, ..before[metric].clone() });
        (client, id, before)
    };
    let spent_before_s = cpu_s(id.pid);
    let asked = Instant::now();
    let result = client.scrape().await;
    let spent_s = spent_before_s.zip(cpu_s(id.pid));
    let mut monitor = lock(&shared);
    monitor.drain_sampler();
    let super::Monitor { kernel, members, host, omitted, scrape_ended, .. } = &mut *monitor;
    scrape_ended.send_replace(());
    // The member may have been restarted meanwhile; then this tells nothing about the new one.
    let Some(tracked) = members.get_mut(&key).filter(|tracked| tracked.id() == Some(id)) else { return };
    if result.is_ok() {
        tracked.certificates.presented(client.presented());
    }
    tracked.client = Some(client);
    tracked.answered = Some(Instant::now());
    let mut sentence = String::new();
    let last_scrape = match result {
        Ok(mut scrape) if is_from(&scrape, id) && has_spent(&scrape, spent_s) => {
            let reexported = Arc::new(mem::take(&mut scrape.reexported));
            omitted.add(&reexported.omitted);
            tracked.copy = Some(Copy { asked, reexported });
            LastScrape::Done(Box::new(scrape))
        }
        Ok(_) => LastScrape::OtherProcess,
        Err(failure) => {
            let reason = failure.reason().as_str();
            *tracked.scrape_errors.entry(reason).or_default() += 1;
            sentence = failure.sentence();
            LastScrape::Failed { reason, error: failure.public_sentence() }
        }
    };
    log_change(tracked, &last_scrape, &sentence);
    tracked.last_scrape = last_scrape;
    take_in(tracked, kernel, host, before);
    omitted.conflicting += conflicting(members, &key);
}

/// Returns how many samples of a member cannot be passed on beside those of the others.
fn conflicting(members: &BTreeMap<MemberKey, MemberState>, of: &MemberKey) -> u64 {
    let Some(own) = members.get(of).and_then(MemberState::reexported) else { return 0 };
    let before = members.iter().take_while(|(key, _)| *key != of);
    reexport::conflicting(before.filter_map(|(_, tracked)| Some(&**tracked.reexported()?)), own)
}

/// Adds what a scrape told to the ledgers and the window.
fn take_in(tracked: &mut MemberState, kernel: &Kernel, host: &mut Host, before: PerMetric<KernelReading>) {
    tracked.locate(kernel);
    let scraped = match &tracked.last_scrape {
        LastScrape::Done(scrape) => Some(PerMetric {
            wal_fsync: observations(&scrape.wal_fsync),
            backend_commit: observations(&scrape.backend_commit),
        }),
        _ => None,
    };
    let mut kernel_now = PerMetric::<Latencies>::default();
    let rounds = PerMetric::from_fn(|metric| {
        let (after, latencies) = tracked.reading(kernel, metric);
        kernel_now[metric] = latencies;
        scraped.as_ref().map(|etcd| {
            let round = Round { before: before[metric].clone(), etcd: etcd[metric].clone(), after };
            let outcome = tracked.ledger_mut(metric).observe(&round).unwrap_or_default();
            if let Some(gap) = outcome.sandwich {
                warn!(
                    member = tracked.label(),
                    metric = metric.as_str(),
                    gap,
                    "kernel and etcd disagree on the count"
                );
            }
            if let Some(breach) = outcome.dominance {
                warn!(
                    member = tracked.label(),
                    metric = metric.as_str(),
                    ?breach,
                    "the kernel measured longer than etcd"
                );
            }
            round
        })
    });
    let environment = tracked.environment();
    let (layers, owners) = host.activity(kernel.block(), environment.layers());
    let starvation = tracked.id().zip(environment.membership.as_ref());
    let losses = Losses {
        by_metric: PerMetric::from_fn(|metric| Lost::of(tracked, kernel, metric)),
        layers,
        owners,
        starvation: starvation.map(|(id, membership)| host.starvation(id.pid, membership)),
    };
    tracked.window.push(Point { at_ns: monotonic_ns(), rounds, losses }, kernel_now);
}

/// A lasting failure is told when it starts and when it ends; in a sentence that may name files.
fn log_change(tracked: &MemberState, now: &LastScrape, sentence: &str) {
    let member = tracked.label();
    match (&tracked.last_scrape, now) {
        (LastScrape::Failed { reason: before, .. }, LastScrape::Failed { reason, .. })
            if before == reason => {}
        (_, LastScrape::Failed { reason, .. }) => warn!(member, reason, "cannot scrape etcd: {sentence}"),
        (LastScrape::OtherProcess, LastScrape::OtherProcess) => {}
        (_, LastScrape::OtherProcess) => {
            warn!(member, "the endpoint belongs to another process than the one traced");
        }
        (LastScrape::Failed { .. } | LastScrape::OtherProcess, LastScrape::Done(_)) => {
            info!(member, "etcd can be scraped again");
        }
        _ => {}
    }
}

/// Returns whether a scrape comes from a process that started when the traced one did. etcds without the metric are believed.
pub fn is_from(scrape: &Scrape, id: ProcessId) -> bool {
    let Some(told_s) = scrape.process_start_time_s else { return true };
    let Ok(boot_s) = procfs::boot_time_secs() else { return true };
    let started_s = boot_s as f64 + id.start_ticks as f64 / procfs::ticks_per_second() as f64;
    (told_s - started_s).abs() < SAME_START.as_secs_f64()
}

/// Returns whether a scrape tells of as much time on processors as the traced process had spent, by `/proc` before and after it.
/// Both are read from the same counters, in ticks.
fn has_spent(scrape: &Scrape, spent_s: Option<(f64, f64)>) -> bool {
    let (Some(told_s), Some((before_s, after_s))) = (scrape.process_cpu_s, spent_s) else { return true };
    (before_s - CPU_SLACK_S..=after_s + CPU_SLACK_S).contains(&told_s)
}

/// Returns the time that a process has spent on processors, in seconds.
fn cpu_s(pid: u32) -> Option<f64> {
    let stat = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
    Some((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

fn observations(histogram: &Histogram) -> Observations {
    Observations { count: histogram.count, sum_s: histogram.sum_s, at_most: histogram.at_most }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{analysis::reexport::AllowList, etcd::Scrape};

    #[test]
    fn the_time_that_a_process_spent_tells_it_from_another() {
        let etcds = Scrape::parse(ETCD, &AllowList::nothing()).expect("an etcd's");
        let scrape = |spent_s| Scrape { process_cpu_s: spent_s, ..etcds.clone() };
        let cases = [
            (Some(5.01), Some((5.0, 5.02)), true, "between both readings"),
            (Some(5.04), Some((5.0, 5.02)), true, "two ticks off"),
            (Some(5.2), Some((5.0, 5.02)), false, "another one, which did more"),
            (Some(1.0), Some((5.0, 5.02)), false, "another one, which did less"),
            (None, Some((5.0, 5.02)), true, "an etcd that does not tell"),
            (Some(5.2), None, true, "a process that is gone"),
        ];
        for (told_s, spent_s, expected, why) in cases {
            assert_eq!(has_spent(&scrape(told_s), spent_s), expected, "{why}");
        }
    }

    const ETCD: &[u8] = include_bytes!("../../testdata/etcd-3.4.23-metrics.txt");
}
