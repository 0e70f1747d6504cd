//! What blocked etcd in the kernel: one name for the blocked time of slow operations.
//!
//! [`CANDIDATES`] are asked in their order, and the first that sees its evidence names the time. What a device was found doing comes after
//! what was found to happen above it, and a cause after its more special form: a slow device is what remains.

use super::{
    Evidence, Verdict,
    evidence::{Class, ClassTime},
    format::{bytes, percent, share, time},
    lost_time::Lost,
};
use crate::analysis::causes::Cause;

/// More than half: the bulk of it, or most of the samples.
const MOST: f64 = 0.5;

/// A request is small beside a wait if it takes less than this part of it: what one sync asks of a device is about three requests in a row (data,
/// journal, flush), so a wait of three of them or fewer is the device's own.
const SMALL: f64 = 1.0 / 3.0;

/// Where nobody else is seen to use the journal, it takes more to believe that it is not etcd's own that waits for the device: a commit of
/// etcd's, and the one before it that it may have to wait for, are some eight requests in a row.
const TINY: f64 = 0.1;

/// A flush that takes so many times what a write takes is what hurts; about the same is normal on a disk whose cache is safe or off.
const FLUSH_FACTOR: f64 = 2.0;

/// So many of the kernel's requests for each of etcd's are not for etcd's sake.
const JOURNAL_FACTOR: u64 = 4;

/// Others' requests must fill the device for at least this part of the window before they can disturb anybody: 90 % of next to
/// nothing is no burden.
const BURDEN: f64 = 0.05;

/// A name for the blocked time, and the numbers that made it.
pub type Finding = (Verdict, String);

const CANDIDATES: [fn(&Evidence, &Lost) -> Option<Finding>; 7] =
    [held_back, crowd, contention, neighbours, queue, flushes, device];

/// Names what blocked etcd; none if nothing tells blocked from running, queued or anything else.
pub fn name(evidence: &Evidence, lost: &Lost) -> Option<Finding> {
    CANDIDATES.iter().find_map(|candidate| candidate(evidence, lost))
}

/// Names the time for which the file system was frozen, apart from the rest.
///
/// A freeze that is over is no `stalled`, which is of this moment; nor was it the device, the journal or anybody's load: somebody on this
/// machine ordered that I/O be held back, and that is what `io_throttled` means.
pub fn frozen(lost: &Lost) -> (f64, Finding) {
    let seconds = lost.waits_s[Cause::Frozen].min(lost.storage_s);
    let reason = format!(
        "the file system was frozen (fsfreeze or a snapshot) while etcd waited for {}",
        time(seconds)
    );
    (seconds, (Verdict::IoThrottled, reason))
}

/// The device had nothing to do, or what it did was fast, while etcd waited for its data.
fn held_back(evidence: &Evidence, lost: &Lost) -> Option<Finding> {
    let data = [Cause::DataWriteback, Cause::RequestQueue, Cause::DirtyThrottling];
    let idle = lost.device_idle().filter(|idle| *idle > MOST);
    let is_limited = !evidence.io_limits.is_empty();
    let state = match (idle, is_small(evidence, lost, SMALL)) {
        // Where no limit is found and the data waits, it waits for something between the file system and the device.
        (Some(idle), _) if is_limited || lost.waits_share(&data) > MOST => {
            format!("the device had nothing to do at {} of the samples", percent(idle))
        }
        // Others can keep a device busy that etcd may not use; what the journal holds up looks the same.
        (None, Some(mean)) if is_limited && lost.waits_share(&[Cause::Journal]) <= MOST => mean,
        _ => return None,
    };
    let by = evidence.io_limits.first().map_or("no limit was found that explains it", String::as_str);
    Some((Verdict::IoThrottled, format!("etcd's I/O was held back while {state}: {by}")))
}

/// Somebody else makes most of what the device does, the journal's part included, and keeps it busy.
///
/// Asked before the journal: its requests queue behind those of a neighbour as etcd's do, so that etcd waits for the journal then, too.
/// Whoever storms the journal itself has it written by the kernel's thread and sends few requests of its own.
fn crowd(evidence: &Evidence, lost: &Lost) -> Option<Finding> {
    let device = evidence.device.as_ref()?;
    let is_idle = lost.device_idle().is_some_and(|idle| idle > MOST);
    let of = |class: &ClassTime| others_of(class);
    let busy_s: f64 = device.classes.iter().map(|class| class.total_s * of(class)).sum();
    let is_crowded = of(&sum(&device.classes)) >= MOST && busy_s >= evidence.window_s * MOST;
    if is_idle || !is_crowded { None } else { neighbours(evidence, lost) }
}

/// The wait is for the file system itself, and the device is not why.
fn contention(evidence: &Evidence, lost: &Lost) -> Option<Finding> {
    let shared = [Cause::Journal, Cause::Lock, Cause::Metadata];
    let why = match lost.device_idle().filter(|idle| *idle > MOST) {
        // Whatever it is, it is above the device: memory that ran short (`other`) belongs nowhere better.
        Some(idle) => format!("the device had nothing to do at {} of the samples", percent(idle)),
        // Nothing is known of a device; the stacks are the evidence.
        None if evidence.device.is_none() && lost.waits_share(&shared) > MOST => {
            "and no block device could be observed".to_owned()
        }
        // A slow disk makes etcd wait for its own journal, too.
        None if lost.waits_share(&[Cause::Journal]) > MOST => {
            is_small(evidence, lost, if is_shared(evidence) { SMALL } else { TINY })?
        }
        None => return None,
    };
    let syncing = evidence.neighbours.iter().find(|neighbour| neighbour.syncs > 0);
    let who =
        syncing.map_or_else(String::new, |by| format!("; {} synced {} times on it", by.owner, by.syncs));
    Some((Verdict::JournalContention, format!("etcd waited for {}; {why}{who}", top_waits(lost))))
}

/// Returns whether anybody but etcd has the journal written: they sync on it, or it is written far more than etcd's own syncs ask for,
/// which is about one of its requests for each of etcd's.
fn is_shared(evidence: &Evidence) -> bool {
    let Some(device) = &evidence.device else { return false };
    let all = sum(&device.classes);
    evidence.neighbours.iter().any(|neighbour| neighbour.syncs > 0)
        || all.kernel_requests > all.own_requests * JOURNAL_FACTOR
}

/// Somebody else makes at least half of what the device does.
fn neighbours(evidence: &Evidence, _: &Lost) -> Option<Finding> {
    let device = evidence.device.as_ref()?;
    let all = sum(&device.classes);
    let flushes = device.class(Class::Flush);
    let of = |class: &ClassTime| others_of(class);
    let heaviest = evidence.neighbours.first();
    let part = heaviest.map_or(0.0, |neighbour| neighbour.share).max(of(&all)).max(of(flushes));
    let burden_s: f64 = device.classes.iter().map(|class| class.total_s * of(class)).sum();
    if part < MOST || burden_s < evidence.window_s * BURDEN {
        return None;
    }
    let who = heaviest.map_or_else(
        || "others than etcd".to_owned(),
        |by| {
            format!(
                "{} ({}): {} requests, {} flushes, {}",
                by.owner,
                by.process,
                by.requests,
                by.flushes,
                bytes(by.bytes)
            )
        },
    );
    Some((Verdict::NoisyNeighbour, format!("{} of the load on {} is {who}", percent(part), device.name)))
}

/// Returns which part of a class's requests others make, the kernel's own threads being no others.
fn others_of(class: &ClassTime) -> f64 {
    let total = class.own_requests + class.kernel_requests + class.other_requests;
    share(class.other_requests as f64, total as f64)
}

/// Requests wait for the device longer than it takes for them.
fn queue(evidence: &Evidence, lost: &Lost) -> Option<Finding> {
    let waits = lost.waits_share(&[Cause::RequestQueue]);
    let all = sum(&evidence.device.as_ref().map(|device| device.classes).unwrap_or_default());
    // Of a device of the device mapper only the total is known.
    // Neither is known of flushes, which are one request of many; where those take most, it is not the queue.
    let is_queued = all.device_s > 0.0 && all.queue_s > all.device_s && all.queue_s > all.total_s * MOST;
    let reason = if is_queued {
        let mean = |seconds: f64| time(seconds / all.requests.max(1) as f64);
        format!(
            "a request waits {} in the queue and takes {} at the device on average",
            mean(all.queue_s),
            mean(all.device_s)
        )
    } else if waits > MOST {
        format!("{} of the waiting with a known cause is for a free request", percent(waits))
    } else {
        return None;
    };
    Some((Verdict::QueueSaturated, reason))
}

/// Writes are fast, and making them durable is not.
fn flushes(evidence: &Evidence, lost: &Lost) -> Option<Finding> {
    // In a commit of ext4 or XFS another thread sends the flush, and etcd waits for the journal.
    let waits = lost.waits_share(&[Cause::Flush, Cause::Journal]);
    let Some(device) = &evidence.device else {
        let waits = lost.waits_share(&[Cause::Flush]);
        let reason = format!("{} of the waiting with a known cause is for flushes", percent(waits));
        return (waits > MOST).then_some((Verdict::FlushSlow, reason));
    };
    let flush_s = device.class(Class::Flush).mean_s()?;
    let write_s = device.class(Class::Write).mean_s().unwrap_or_default();
    let reason =
        format!("a flush of {} takes {} on average, a write {}", device.name, time(flush_s), time(write_s));
    (flush_s >= FLUSH_FACTOR * write_s && waits > MOST).then_some((Verdict::FlushSlow, reason))
}

/// The device takes its time, and nothing above it or beside it explains why.
///
/// Where no device can be observed (ZFS, NFS, FUSE) this is by elimination, and says so: the time is blocked time, so neither
/// a CPU's nor etcd's. Without even an account of the time there is nothing to eliminate with.
fn device(evidence: &Evidence, lost: &Lost) -> Option<Finding> {
    let Some(device) = &evidence.device else {
        let reason = format!(
            "etcd was blocked for {} in the kernel; no block device could be observed, so this is by elimination",
            time(lost.storage_s)
        );
        return (lost.is_split || lost.is_sampled()).then_some((Verdict::DeviceSlow, reason));
    };
    let means = [Class::Read, Class::Write, Class::Flush].map(|class| {
        let mean_s = device.class(class).mean_s()?;
        Some(format!("a {} takes {}", class.as_str(), time(mean_s)))
    });
    let means: Vec<_> = means.into_iter().flatten().collect();
    let means = if means.is_empty() { "no request ended".to_owned() } else { means.join(", ") };
    let cloud = device.cloud.map_or_else(String::new, |cloud| {
        format!("; a limit that {cloud} enforces on the volume, outside this machine, looks like this")
    });
    Some((Verdict::DeviceSlow, format!("on {} {means} on average{cloud}", device.name)))
}

/// Returns the numbers if requests take less than this part of the waits of etcd: writes and flushes, which are what it waits for.
fn is_small(evidence: &Evidence, lost: &Lost, part: f64) -> Option<String> {
    let device = evidence.device.as_ref()?;
    // The slower of both: many short writes must not hide flushes that are long.
    let means = [Class::Write, Class::Flush].into_iter().filter_map(|class| device.class(class).mean_s());
    let request_s = means.reduce(f64::max)?;
    let wait_s = lost.mean_wait_s()?;
    let reason = format!(
        "a request took {} at most on average, a slow operation waited {}",
        time(request_s),
        time(wait_s)
    );
    (request_s < wait_s * part).then_some(reason)
}

/// Returns the two causes that etcd waited for longest.
fn top_waits(lost: &Lost) -> String {
    let mut waits: Vec<_> = Cause::ALL.into_iter().map(|cause| (cause, lost.waits_s[cause])).collect();
    waits.retain(|(_, wait_s)| *wait_s > 0.0);
    waits.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let named = waits.iter().take(2).map(|(cause, wait_s)| format!("{} {}", words(*cause), time(*wait_s)));
    named.collect::<Vec<_>>().join(", ")
}

/// Returns a cause as it stands in a sentence.
pub fn words(cause: Cause) -> &'static str {
    match cause {
        Cause::Flush => "flush",
        Cause::DataWriteback => "data writeback",
        Cause::Journal => "journal",
        Cause::Metadata => "metadata",
        Cause::RequestQueue => "request queue",
        Cause::DirtyThrottling => "dirty throttling",
        Cause::Lock => "lock",
        Cause::Frozen => "frozen",
        Cause::Other => "other",
        Cause::Unsampled => "unsampled",
    }
}

fn sum(classes: &[ClassTime]) -> ClassTime {
    classes.iter().fold(ClassTime::default(), |all, class| ClassTime {
        requests: all.requests + class.requests,
        total_s: all.total_s + class.total_s,
        queue_s: all.queue_s + class.queue_s,
        device_s: all.device_s + class.device_s,
        own_requests: all.own_requests + class.own_requests,
        kernel_requests: all.kernel_requests + class.kernel_requests,
        other_requests: all.other_requests + class.other_requests,
    })
}
