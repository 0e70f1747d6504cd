//! The cause for which etcd was blocked in the kernel: one name for the blocked time of slow operations.
//!
//! [`RULES`] are tried in order, and the first whose evidence is present names the time. Rules about the
//! device come after rules about the layers above it, and a general cause comes after its special form: a
//! slow device is the rest.

use super::{
    Evidence, Verdict,
    evidence::{Class, ClassTime},
    format::{bytes, percent, share, time},
    lost_time::LostTime,
};
use crate::analysis::causes::Cause;

/// More than half: the larger part of a time, or most of the samples.
const MAJORITY: f64 = 0.5;

/// A device is fast if its mean request takes less than this share of a wait. One sync causes about three
/// requests in a row (data, journal, flush), so the device itself explains a wait of up to three requests.
const REQUEST_SHARE_MAX: f64 = 1.0 / 3.0;

/// The same limit if no other process is known to use the journal. Then it is more likely that etcd's own
/// commit waits for the device: a commit of etcd, and the previous one that it may have to wait for, are some
/// eight requests in a row.
const REQUEST_SHARE_MAX_ALONE: f64 = 0.1;

/// A flush that takes this many times as long as a write is slow; about as long as a write is normal for a
/// disk whose cache is safe or off.
const FLUSH_FACTOR_MIN: f64 = 2.0;

/// With more kernel requests than this for each of etcd's, the kernel does not act for etcd alone.
const KERNEL_REQUESTS_PER_OWN_MAX: u64 = 4;

/// The minimum share of the window for which other processes' requests must occupy the device to disturb
/// etcd: 90 % of a negligible load is no disturbance.
const NEIGHBOUR_BUSY_SHARE_MIN: f64 = 0.05;

/// A name for a part of the lost time, and the numbers behind it.
pub type Explanation = (Verdict, String);

/// One rule for each verdict, in order; [`saturated_by_neighbours`] leads to `noisy_neighbour`, too.
const RULES: [fn(&Evidence, &LostTime) -> Option<Explanation>; 7] = [
    io_throttled,
    saturated_by_neighbours,
    journal_contention,
    noisy_neighbour,
    queue_saturated,
    flush_slow,
    device_slow,
];

/// Names the cause of the blocked time; none if blocked time cannot be distinguished from running and queued
/// time.
pub fn name(evidence: &Evidence, lost: &LostTime) -> Option<Explanation> {
    RULES.iter().find_map(|rule| rule(evidence, lost))
}

/// Names the time for which the file system was frozen, separately from the rest.
///
/// A freeze that has ended is not `stalled`, which describes this moment. It is not the device, the journal
/// or a neighbour's load either: a command on this machine stopped the I/O, which is the meaning of
/// `io_throttled`.
pub fn frozen(lost: &LostTime) -> (f64, Explanation) {
    let seconds = lost.waits_s[Cause::Frozen].min(lost.storage_s);
    let reason = format!(
        "the file system was frozen (fsfreeze or a snapshot) during {} of etcd's wait",
        time(seconds)
    );
    (seconds, (Verdict::IoThrottled, reason))
}

/// The device was idle or fast while etcd waited for its data.
fn io_throttled(evidence: &Evidence, lost: &LostTime) -> Option<Explanation> {
    let data = [Cause::DataWriteback, Cause::RequestQueue, Cause::DirtyThrottling];
    let idle = lost.device_idle().filter(|idle| *idle > MAJORITY);
    let is_limited = !evidence.io_limits.is_empty();
    let state = match (idle, is_fast(evidence, lost, REQUEST_SHARE_MAX)) {
        // If data waits although no limit was found, it waits for something between the file system and the
        // device.
        (Some(idle), _) if is_limited || lost.waits_share(&data) > MAJORITY => {
            format!("the device was idle in {} of the samples", percent(idle))
        }
        // Other processes can keep the device busy while etcd is throttled. A wait for the journal looks the
        // same.
        (None, Some(mean)) if is_limited && lost.waits_share(&[Cause::Journal]) <= MAJORITY => mean,
        _ => return None,
    };
    let limit = evidence.io_limits.first().map_or("no limit that explains it was found", String::as_str);
    Some((Verdict::IoThrottled, format!("etcd's I/O was throttled while {state}: {limit}")))
}

/// Other processes cause most of the device's load, the journal's part included, and keep it busy.
///
/// Precedes the journal: its requests queue behind a neighbour's as etcd's do, so etcd waits for the journal
/// in this case, too. A process that floods the journal itself sends few requests of its own: the kernel's
/// thread writes them.
fn saturated_by_neighbours(evidence: &Evidence, lost: &LostTime) -> Option<Explanation> {
    let device = evidence.device.as_ref()?;
    let is_idle = lost.device_idle().is_some_and(|idle| idle > MAJORITY);
    let of = |class: &ClassTime| others_of(class);
    let busy_s: f64 = device.classes.iter().map(|class| class.total_s * of(class)).sum();
    let is_saturated = of(&sum(&device.classes)) >= MAJORITY && busy_s >= evidence.window_s * MAJORITY;
    if is_idle || !is_saturated { None } else { noisy_neighbour(evidence, lost) }
}

/// etcd waits for the file system itself, and the device is not the cause.
fn journal_contention(evidence: &Evidence, lost: &LostTime) -> Option<Explanation> {
    let shared = [Cause::Journal, Cause::Lock, Cause::Metadata];
    let why = match lost.device_idle().filter(|idle| *idle > MAJORITY) {
        // Any wait here is above the device. A memory shortage (`other`) fits no other verdict better.
        Some(idle) => format!("the device was idle in {} of the samples", percent(idle)),
        // No device is known; the stacks are the evidence.
        None if evidence.device.is_none() && lost.waits_share(&shared) > MAJORITY => {
            "no block device could be observed".to_owned()
        }
        // A slow disk also makes etcd wait for its own journal.
        None if lost.waits_share(&[Cause::Journal]) > MAJORITY => {
            let share_max = if is_shared(evidence) { REQUEST_SHARE_MAX } else { REQUEST_SHARE_MAX_ALONE };
            is_fast(evidence, lost, share_max)?
        }
        None => return None,
    };
    let syncing = evidence.neighbours.iter().find(|neighbour| neighbour.syncs > 0);
    let synced =
        syncing.map_or_else(String::new, |by| format!("; {} synced {} times on it", by.owner, by.syncs));
    Some((Verdict::JournalContention, format!("etcd waited for {}; {why}{synced}", top_waits(lost))))
}

/// Returns whether other processes cause journal writes: they sync on the device, or the journal is written
/// far more often than etcd's own syncs require, which is about one journal request for each of etcd's
/// requests.
fn is_shared(evidence: &Evidence) -> bool {
    let Some(device) = &evidence.device else { return false };
    let all = sum(&device.classes);
    evidence.neighbours.iter().any(|neighbour| neighbour.syncs > 0)
        || all.kernel_requests > all.own_requests * KERNEL_REQUESTS_PER_OWN_MAX
}

/// Other processes cause at least half of the device's load.
fn noisy_neighbour(evidence: &Evidence, _: &LostTime) -> Option<Explanation> {
    let device = evidence.device.as_ref()?;
    let all = sum(&device.classes);
    let flushes = device.class(Class::Flush);
    let of = |class: &ClassTime| others_of(class);
    let heaviest = evidence.neighbours.first();
    let part = heaviest.map_or(0.0, |neighbour| neighbour.share).max(of(&all)).max(of(flushes));
    let busy_s: f64 = device.classes.iter().map(|class| class.total_s * of(class)).sum();
    if part < MAJORITY || busy_s < evidence.window_s * NEIGHBOUR_BUSY_SHARE_MIN {
        return None;
    }
    let source = heaviest.map_or_else(
        || "other processes".to_owned(),
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
    Some((
        Verdict::NoisyNeighbour,
        format!("{} of the load on {} comes from {source}", percent(part), device.name),
    ))
}

/// Returns the share of other processes in the requests of a class; the kernel's own threads do not count as
/// others.
fn others_of(class: &ClassTime) -> f64 {
    let total = class.own_requests + class.kernel_requests + class.other_requests;
    share(class.other_requests as f64, total as f64)
}

/// Requests wait for the device for longer than it takes to serve them.
fn queue_saturated(evidence: &Evidence, lost: &LostTime) -> Option<Explanation> {
    let waits = lost.waits_share(&[Cause::RequestQueue]);
    let all = sum(&evidence.device.as_ref().map(|device| device.classes).unwrap_or_default());
    // For a device of the device mapper only the total is known. The split is also unknown for flushes, since
    // one request serves many of them; if flushes take most of the time, the queue is not the cause.
    let is_queued = all.device_s > 0.0 && all.queue_s > all.device_s && all.queue_s > all.total_s * MAJORITY;
    let reason = if is_queued {
        let mean = |seconds: f64| time(seconds / all.requests.max(1) as f64);
        format!(
            "a request waits {} in the queue and takes {} at the device on average",
            mean(all.queue_s),
            mean(all.device_s)
        )
    } else if waits > MAJORITY {
        format!("{} of the wait with a known cause is for a free request", percent(waits))
    } else {
        return None;
    };
    Some((Verdict::QueueSaturated, reason))
}

/// Writes are fast, but their flushes are slow.
fn flush_slow(evidence: &Evidence, lost: &LostTime) -> Option<Explanation> {
    // In a commit of ext4 or XFS another thread sends the flush, and etcd waits for the journal.
    let waits = lost.waits_share(&[Cause::Flush, Cause::Journal]);
    let Some(device) = &evidence.device else {
        let waits = lost.waits_share(&[Cause::Flush]);
        let reason = format!("{} of the wait with a known cause is for flushes", percent(waits));
        return (waits > MAJORITY).then_some((Verdict::FlushSlow, reason));
    };
    let flush_s = device.class(Class::Flush).mean_s()?;
    let write_s = device.class(Class::Write).mean_s().unwrap_or_default();
    let reason =
        format!("a flush of {} takes {} on average, a write {}", device.name, time(flush_s), time(write_s));
    (flush_s >= FLUSH_FACTOR_MIN * write_s && waits > MAJORITY).then_some((Verdict::FlushSlow, reason))
}

/// The device is slow, and the layers above it and its other users do not explain the wait.
///
/// If no device can be observed (ZFS, NFS, FUSE) this verdict is by elimination, and the reason states it:
/// blocked time is not a CPU's or etcd's. Without accounting of blocked time nothing can be eliminated.
fn device_slow(evidence: &Evidence, lost: &LostTime) -> Option<Explanation> {
    let Some(device) = &evidence.device else {
        let reason = format!(
            "etcd was blocked for {} in the kernel; no block device could be observed: storage remains by elimination",
            time(lost.storage_s)
        );
        return (lost.is_split || lost.is_sampled()).then_some((Verdict::DeviceSlow, reason));
    };
    let means = [Class::Read, Class::Write, Class::Flush].map(|class| {
        let mean_s = device.class(class).mean_s()?;
        Some(format!("a {} takes {}", class.as_str(), time(mean_s)))
    });
    let means: Vec<_> = means.into_iter().flatten().collect();
    let means = if means.is_empty() { "no request completed".to_owned() } else { means.join(", ") };
    let cloud = device.cloud.map_or_else(String::new, |cloud| {
        format!("; a volume limit that {cloud} enforces outside this machine has the same effect")
    });
    Some((Verdict::DeviceSlow, format!("on {} {means} on average{cloud}", device.name)))
}

/// Returns the numbers if the mean request takes less than this share of etcd's mean wait. Counts writes and
/// flushes, since etcd waits for these.
fn is_fast(evidence: &Evidence, lost: &LostTime, share_max: f64) -> Option<String> {
    let device = evidence.device.as_ref()?;
    // The slower of both: many short writes must not hide long flushes.
    let means = [Class::Write, Class::Flush].into_iter().filter_map(|class| device.class(class).mean_s());
    let request_s = means.reduce(f64::max)?;
    let wait_s = lost.mean_wait_s()?;
    let reason = format!(
        "a request took {} at most on average, a slow operation waited {}",
        time(request_s),
        time(wait_s)
    );
    (request_s < wait_s * share_max).then_some(reason)
}

/// Returns the two causes for which etcd waited longest.
fn top_waits(lost: &LostTime) -> String {
    let mut waits: Vec<_> = Cause::ALL.into_iter().map(|cause| (cause, lost.waits_s[cause])).collect();
    waits.retain(|(_, wait_s)| *wait_s > 0.0);
    waits.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let named =
        waits.iter().take(2).map(|(cause, wait_s)| format!("{} {}", cause_name(*cause), time(*wait_s)));
    named.collect::<Vec<_>>().join(", ")
}

/// Returns the name of a cause in sentences.
pub fn cause_name(cause: Cause) -> &'static str {
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
