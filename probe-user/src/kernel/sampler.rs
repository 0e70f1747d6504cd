//! Looks at what slow operations wait for: a thread that glances at shared memory now and then, and takes stacks only while
//! operations are slow.
//!
//! A glance costs no system call but its timer, and looks at those threads only that were there a second ago: four times a second
//! where nothing was slow for ten minutes, for waking up costs more than looking, and else often enough to meet most of what is. Once an operation has been in flight for longer than the threshold, or has ended
//! so, every one is looked at two hundred times a second, whatever its age, until five seconds pass without a slow one: looking
//! only at those that are slow already would see how they end and never how they begin.

mod kernel_stack;

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use probe_ebpf::{
    io::{LOST_AFTER_NS, Owner, OwnerKey},
    state::{NO_STACK, SlowEvent, Thread},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    analysis::{
        causes::{Cause, cause_of, top_frames},
        slow_operation::{Activity, Sample, SlowOperation},
    },
    kernel::{Shared as Memory, SlowRing, monotonic_ns},
    system::privileges,
};

/// Between two samples of one operation, while operations are slow.
pub const SAMPLED_EVERY: Duration = Duration::from_millis(5);

/// A look takes the sampler's thread some 100 µs; where it takes longer, as on a machine that is emulated or short of CPU, the next one
/// waits this many times as long, so that looking takes half a processor at most.
const REST: u32 = 1;

/// Between two samples at most, however long a look takes.
const SAMPLED_EVERY_AT_MOST: Duration = Duration::from_millis(250);

/// How long sampling goes on after the last slow operation.
const ALERT_FOR_NS: u64 = 5_000_000_000;

/// Between glances at most, while operations are fast but were slow of late.
const GLANCE_AT_MOST: Duration = Duration::from_millis(50);

/// Between glances while nothing was slow for long.
const GLANCE_AT_REST: Duration = Duration::from_millis(250);

/// How long it is remembered that something was slow.
const WATCHFUL_FOR_NS: u64 = 600_000_000_000;

/// How often new threads are looked for while operations are fast; what one of them does slowly is told when it ends, anyhow.
const POSITIONS_EVERY_NS: u64 = 1_000_000_000;

/// Operations sampled at a time. etcd has a handful in flight; a stack takes some 10 µs.
const SAMPLED_AT_ONCE: usize = 32;

/// Samples kept of one operation: more are folded into the last.
const SAMPLES_KEPT: usize = 4096;

/// Operations that wait for whoever asks; more are dropped, oldest first.
const PENDING: usize = 8192;

/// Snapshots of who is active on the devices, a tenth of a second apart while operations are slow and a second else.
const SNAPSHOTS: usize = 64;

/// What the sampler found, as it is shared with the monitor.
#[derive(Debug, Default)]
pub struct Findings {
    pub slow: VecDeque<SlowOperation>,
    /// Slow operations that nobody asked for in time.
    pub dropped: u64,
    /// What the operations in flight waited for when they were last looked at.
    pub waiting: Vec<Waiting>,
    /// Stacks that could not be read.
    pub unreadable: u64,
    /// The layers of devices under each target's files.
    pub layers: HashMap<u32, Vec<u32>>,
}

/// An operation in flight and what it waits for.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub target: u32,
    pub series: u32,
    pub started_ns: u64,
    pub cause: Cause,
    pub frames: String,
}

pub type SharedFindings = Arc<Mutex<Findings>>;

/// Locks the findings; whoever panicked with them left what is still true.
pub fn lock(findings: &SharedFindings) -> MutexGuard<'_, Findings> {
    findings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread, which keeps what reading stacks takes: before privileges are dropped.
///
/// # Errors
/// If it cannot be started, or keeps more than it should.
pub fn start(
    ring: SlowRing,
    memory: Memory,
    threshold: Duration,
) -> Result<SharedFindings, privileges::PrivilegeError> {
    let findings = SharedFindings::default();
    let told = findings.clone();
    privileges::spawn_reader_of_stacks(move || Sampler::new(ring, memory, threshold, told).run())?;
    Ok(findings)
}

struct Sampler {
    ring: SlowRing,
    memory: Memory,
    threshold_ns: u64,
    glance_every: Duration,
    findings: SharedFindings,
    /// Until when operations are sampled.
    alert_until_ns: u64,
    looked_ns: u64,
    /// Where threads were when that was last looked at, and when.
    positions: Vec<u32>,
    positions_ns: u64,
    /// How long the last look took.
    look_took: Duration,
    /// By position of the thread and the start of its operation: a thread may be in the next one before the record of the last
    /// is read.
    samples: HashMap<(u32, u64), Samples>,
    snapshots: VecDeque<Snapshot>,
}

/// Samples of one operation.
struct Samples {
    last_ns: u64,
    taken: Vec<Sample>,
}

struct Snapshot {
    at_ns: u64,
    owners: HashMap<OwnerKey, Owner>,
}

impl Sampler {
    fn new(ring: SlowRing, memory: Memory, threshold: Duration, findings: SharedFindings) -> Self {
        Self {
            ring,
            memory,
            threshold_ns: u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX),
            glance_every: (threshold * 2).clamp(SAMPLED_EVERY, GLANCE_AT_MOST),
            findings,
            alert_until_ns: 0,
            looked_ns: 0,
            positions: Vec::new(),
            positions_ns: 0,
            look_took: Duration::ZERO,
            samples: HashMap::new(),
            snapshots: VecDeque::new(),
        }
    }

    /// ProgramRuns for as long as somebody shares the findings.
    fn run(mut self) {
        while Arc::strong_count(&self.findings) > 1 {
            let every = self.pause(monotonic_ns());
            let since = Duration::from_nanos(monotonic_ns().saturating_sub(self.looked_ns));
            if let Err(error) = self.wait(every.saturating_sub(since)) {
                tracing::error!(%error, "slow operations are not looked at any more");
                return;
            }
            self.drain();
            if monotonic_ns().saturating_sub(self.looked_ns)
                >= u64::try_from(every.as_nanos()).unwrap_or(u64::MAX)
            {
                self.look();
                self.look_took = Duration::from_nanos(monotonic_ns().saturating_sub(self.looked_ns));
            }
        }
    }

    /// Returns how long to wait between two looks.
    fn pause(&self, now_ns: u64) -> Duration {
        if now_ns < self.alert_until_ns {
            return SAMPLED_EVERY.max((self.look_took * REST).min(SAMPLED_EVERY_AT_MOST));
        }
        // Nothing was slow since the start: then it is 0.
        let watchful = self.alert_until_ns > 0 && now_ns < self.alert_until_ns + WATCHFUL_FOR_NS;
        if watchful { self.glance_every } else { self.glance_every.max(GLANCE_AT_REST) }
    }

    /// Waits for a record, or until it is time to look.
    fn wait(&self, limit: Duration) -> io::Result<()> {
        let descriptor = self.ring.descriptor();
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn drain(&mut self) {
        while let Some(record) = self.ring.pop() {
            self.alert_until_ns = monotonic_ns() + ALERT_FOR_NS;
            let samples = self.samples.remove(&(record.thread, record.started_ns));
            let taken = samples.map(|samples| samples.taken).unwrap_or_default();
            let exact = (record.used > 0).then(|| self.exact(&record));
            let mut operation = SlowOperation::new(ended_at(&record), record, &taken, exact.as_deref());
            operation.neighbours = self.active_during(&record);
            let mut findings = lock(&self.findings);
            if findings.slow.len() >= PENDING {
                findings.slow.pop_front();
                findings.dropped += 1;
            }
            findings.slow.push_back(operation);
        }
    }

    /// Returns the waits that were recorded at every switch, named.
    fn exact(&self, record: &SlowEvent) -> Vec<(Cause, String, u64)> {
        let used = record.waits.iter().take(record.used as usize);
        used.map(|wait| {
            let ns = u64::from(wait.blocked_us) * 1000;
            if wait.stack == NO_STACK {
                return (Cause::Unsampled, String::new(), ns);
            }
            let functions = self.ring.functions(wait.stack);
            (cause_of(&functions), top_frames(&functions), ns)
        })
        .collect()
    }

    /// Looks at the operations in flight, and samples them if any of late was slow.
    fn look(&mut self) {
        let now_ns = monotonic_ns();
        self.looked_ns = now_ns;
        if now_ns < self.alert_until_ns || now_ns.saturating_sub(self.positions_ns) > POSITIONS_EVERY_NS {
            self.positions = self.memory.positions();
            self.positions_ns = now_ns;
        }
        let mut in_flight = self.memory.in_flight(&self.positions);
        if in_flight.iter().any(|(_, age_ns)| *age_ns > self.threshold_ns) {
            self.alert_until_ns = now_ns + ALERT_FOR_NS;
        }
        let is_alert = now_ns < self.alert_until_ns;
        self.snapshot(now_ns, is_alert);
        if !is_alert {
            self.samples.clear();
            lock(&self.findings).waiting.clear();
            return;
        }
        in_flight.sort_by_key(|(_, age_ns)| std::cmp::Reverse(*age_ns));
        in_flight.truncate(SAMPLED_AT_ONCE);
        let busy = self.busy_layers(now_ns);
        let layers = lock(&self.findings).layers.clone();
        let mut waiting = Vec::new();
        let mut unreadable = 0;
        for (thread, _) in &in_flight {
            let device_busy =
                layers.get(&thread.target).map(|under| under.iter().any(|layer| busy.contains(layer)));
            match kernel_stack::of(thread) {
                Ok(functions) => waiting.push(self.sample(thread, &functions, device_busy)),
                Err(error) if kernel_stack::has_ended(&error) => {}
                Err(_) => unreadable += 1,
            }
        }
        let mut findings = lock(&self.findings);
        findings.waiting = waiting;
        findings.unreadable += unreadable;
        drop(findings);
        // Those that have ended are kept until their record comes, which those that were fast after all do not have.
        self.samples.retain(|_, samples| now_ns.saturating_sub(samples.last_ns) < ALERT_FOR_NS);
    }

    /// Adds a sample of an operation; it stands for the time since the last one.
    fn sample(&mut self, thread: &Thread, functions: &[String], device_busy: Option<bool>) -> Waiting {
        let now_ns = monotonic_ns();
        let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
        let (cause, frames) = (cause_of(&functions), top_frames(&functions));
        let started_ns = thread.started_ns;
        let new = || Samples { last_ns: started_ns, taken: Vec::new() };
        let samples = self.samples.entry((thread.index, started_ns)).or_insert_with(new);
        let stands_for_ns = now_ns.saturating_sub(samples.last_ns);
        samples.last_ns = now_ns;
        let sample = Sample { cause, frames: frames.clone(), device_busy, stands_for_ns };
        let is_full = samples.taken.len() >= SAMPLES_KEPT;
        match samples.taken.last_mut() {
            // One that hangs is seen in the same place for hours.
            Some(last) if is_alike(last, &sample) || is_full => {
                last.stands_for_ns += stands_for_ns;
            }
            _ => samples.taken.push(sample),
        }
        Waiting { target: thread.target, series: thread.series, started_ns, cause, frames }
    }

    /// Returns the layers on which any request is in flight. Those whose end was not seen are left out after a while.
    fn busy_layers(&self, now_ns: u64) -> Vec<u32> {
        let requests = self.memory.requests();
        let recent =
            requests.iter().filter(|request| now_ns.saturating_sub(request.queued_ns) < LOST_AFTER_NS);
        let mut layers: Vec<u32> = recent.map(|request| request.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// Remembers what everybody has done so far.
    fn snapshot(&mut self, now_ns: u64, is_alert: bool) {
        let every_ns = if is_alert { 100_000_000 } else { 1_000_000_000 };
        if self.snapshots.back().is_some_and(|last| now_ns.saturating_sub(last.at_ns) < every_ns) {
            return;
        }
        let owners = self.memory.owners().into_iter().map(|owner| (owner.key, owner)).collect();
        self.snapshots.push_back(Snapshot { at_ns: now_ns, owners });
        if self.snapshots.len() > SNAPSHOTS {
            self.snapshots.pop_front();
        }
    }

    /// Returns who else was active on the devices of an operation since the last snapshot before it, the three busiest.
    fn active_during(&self, record: &SlowEvent) -> Vec<Activity> {
        let layers = lock(&self.findings).layers.get(&record.target).cloned().unwrap_or_default();
        let before = self.snapshots.iter().rev().find(|snapshot| snapshot.at_ns <= record.started_ns);
        let Some(before) = before.or(self.snapshots.front()) else { return Vec::new() };
        let own = self.memory.process_of(record.thread);
        let others = self.memory.owners().into_iter();
        let others = others.filter(|owner| layers.contains(&owner.key.layer) && Some(owner.key.tgid) != own);
        let mut active: Vec<_> = others.map(|now| activity(&now, before.owners.get(&now.key))).collect();
        active.retain(|activity| activity.requests + activity.syncs > 0);
        active.sort_by_key(|activity| std::cmp::Reverse(activity.requests + activity.syncs));
        active.truncate(3);
        // It was collected in the place of all owners, 64 KiB of a busy host's, and a thousand of these are kept.
        active.shrink_to_fit();
        active
    }
}

fn is_alike(a: &Sample, b: &Sample) -> bool {
    (a.cause, &a.frames, a.device_busy) == (b.cause, &b.frames, b.device_busy)
}

/// Returns what an owner did since an earlier reading.
fn activity(now: &Owner, before: Option<&Owner>) -> Activity {
    let requests = |owner: &Owner| owner.requests.iter().sum::<u64>();
    let then = before.copied().unwrap_or_default();
    let flush = probe_ebpf::io::Class::Flush as usize;
    Activity {
        key: now.key,
        comm: now.comm,
        requests: requests(now).saturating_sub(requests(&then)),
        flushes: now.requests[flush].saturating_sub(then.requests[flush]),
        syncs: now.syncs.saturating_sub(then.syncs),
        bytes: now.bytes.saturating_sub(then.bytes),
    }
}

/// Returns when an operation ended, by the clock on the wall.
fn ended_at(record: &SlowEvent) -> SystemTime {
    let ended_ns = record.started_ns.saturating_add(record.latency_ns);
    let ago = Duration::from_nanos(monotonic_ns().saturating_sub(ended_ns));
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}
