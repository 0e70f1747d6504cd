//! One round of the cross-check: the kernel, etcd, the kernel again.

use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{
    MemberKey, Shared, lock,
    losses::{Losses, Lost},
    surroundings::{Host, activity},
    tracked::{LastScrape, Metric, Tracked},
    window::{Point, Sample},
};
use crate::{
    crosscheck::{KernelReading, Observations, Round},
    etcd::{Histogram, Scrape},
    kernel::{Kernel, monotonic_ns},
    members::ProcessId,
};

/// How far two readings of a process's start may lie apart: both come from `/proc/stat`'s `btime`, a whole number of
/// seconds that moves when the clock is set.
const SAME_START: Duration = Duration::from_millis(1_100);

/// Scrapes every member that is alive and not being scraped, all at once; ends when the last has ended.
pub async fn scrape_all(shared: &Shared) {
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

async fn scrape(shared: Shared, key: MemberKey) {
    let (mut client, id, before) = {
        let mut monitor = lock(&shared);
        let super::Monitor { kernel, members, .. } = &mut *monitor;
        let Some(tracked) = members.get_mut(&key) else { return };
        let (Some(id), Some(client)) = (tracked.id(), tracked.client.take()) else { return };
        tracked.locate(kernel);
        let before = Metric::ALL.map(|metric| tracked.reading(kernel, metric).0);
        // The reading's time is when its last part was read.
        (client, id, before.map(|reading| KernelReading { at_ns: monotonic_ns(), ..reading }))
    };
    let result = client.scrape().await;
    let mut monitor = lock(&shared);
    monitor.absorb();
    let super::Monitor { kernel, members, host, .. } = &mut *monitor;
    // The member may have been restarted meanwhile; then this tells nothing about the new one.
    let Some(tracked) = members.get_mut(&key).filter(|tracked| tracked.id() == Some(id)) else { return };
    tracked.client = Some(client);
    let last_scrape = match result {
        Ok(scrape) if is_from(&scrape, id) => LastScrape::Done(Box::new(scrape)),
        Ok(_) => LastScrape::OtherProcess,
        Err(error) => {
            let reason = error.reason().as_str();
            *tracked.scrape_errors.entry(reason).or_default() += 1;
            LastScrape::Failed { reason, error: crate::logging::chain(&error) }
        }
    };
    log_change(tracked, &last_scrape);
    tracked.last_scrape = last_scrape;
    take_in(tracked, kernel, host, before);
}

/// Adds what a scrape told to the ledgers and the window.
fn take_in(tracked: &mut Tracked, kernel: &Kernel, host: &Host, before: [KernelReading; 2]) {
    tracked.locate(kernel);
    let scraped = match &tracked.last_scrape {
        LastScrape::Done(scrape) => {
            Some([observations(&scrape.wal_fsync), observations(&scrape.backend_commit)])
        }
        _ => None,
    };
    let mut before = before.into_iter();
    let samples = Metric::ALL.map(|metric| {
        let (after, latencies) = tracked.reading(kernel, metric);
        let round = scraped.as_ref().zip(before.next()).map(|(etcd, before)| {
            let round = Round { before, etcd: etcd[metric as usize].clone(), after };
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
        });
        Sample { kernel: latencies, round }
    });
    let surroundings = tracked.surroundings();
    let (layers, owners) = activity(kernel.block(), &surroundings.layers());
    let starvation = tracked.id().zip(surroundings.membership.as_ref());
    let losses = Losses {
        figures: Metric::ALL.map(|metric| Lost::of(tracked, kernel, metric)),
        layers,
        owners,
        starvation: starvation.map(|(id, membership)| host.starvation(id.pid, membership)),
    };
    tracked.window.push(Point { at_ns: monotonic_ns(), samples, losses });
}

/// A lasting failure is told when it starts and when it ends.
fn log_change(tracked: &Tracked, now: &LastScrape) {
    let member = tracked.label();
    match (&tracked.last_scrape, now) {
        (LastScrape::Failed { reason: before, .. }, LastScrape::Failed { reason, .. })
            if before == reason => {}
        (_, LastScrape::Failed { reason, error }) => warn!(member, reason, "cannot scrape etcd: {error}"),
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

/// Returns whether a scrape comes from the process that is traced. etcds without the metric are believed.
pub fn is_from(scrape: &Scrape, id: ProcessId) -> bool {
    let Some(told_s) = scrape.process_start_time_s else { return true };
    let Ok(boot_s) = procfs::boot_time_secs() else { return true };
    let started_s = boot_s as f64 + id.start_ticks as f64 / procfs::ticks_per_second() as f64;
    (told_s - started_s).abs() < SAME_START.as_secs_f64()
}

fn observations(histogram: &Histogram) -> Observations {
    Observations { count: histogram.count, sum_s: histogram.sum_s, at_most: histogram.at_most }
}
