//! Determines the causes of slow operations: a thread that polls shared memory, and samples stacks only while
//! operations are slow.
//!
//! A poll costs no system call except its timer, and inspects only the threads that existed a second ago.
//! Without a slow operation for ten minutes, it polls four times a second, because waking up costs more than
//! polling; otherwise it polls often enough to find most slow operations in flight. As soon as an operation
//! has been in flight for longer than the threshold, or has ended after a longer time, every operation is
//! sampled 200 times a second, regardless of its age, until five seconds pass without a slow one. Sampling
//! only the operations that are slow already would show how they end and never how they begin.

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
        slow_operation::{DeviceActivity, SlowOperation, StackSample},
    },
    kernel::{SamplerMaps, SlowRing, monotonic_ns},
    system::{privileges, thread_capabilities},
};

/// Interval between two samples of one operation, while operations are slow.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

/// A poll takes about 100 µs of the sampler's thread. If it takes longer, as on an emulated machine or one
/// short of CPU, the pause before the next poll is this many times as long, so that polling takes at most
/// half a CPU.
const PAUSE_PER_POLL: u32 = 1;

/// Longest interval between two samples, however long a poll takes.
const SAMPLE_INTERVAL_MAX: Duration = Duration::from_millis(250);

/// How long sampling continues after the last slow operation.
const SAMPLING_LINGER_NS: u64 = 5_000_000_000;

/// Longest interval between polls while operations are fast but were slow recently.
const POLL_WATCHING_MAX: Duration = Duration::from_millis(50);

/// Interval between polls after a long time without slow operations.
const POLL_IDLE: Duration = Duration::from_millis(250);

/// How long after a slow operation the interval stays at most [`POLL_WATCHING_MAX`].
const WATCHING_FOR_NS: u64 = 600_000_000_000;

/// How often the array is scanned for new threads while operations are fast. A slow operation of a new thread
/// is reported at its end in any case.
const RESCAN_EVERY_NS: u64 = 1_000_000_000;

/// Operations sampled per poll. etcd has a handful in flight; reading a stack takes about 10 µs.
const SAMPLED_OPERATIONS_MAX: usize = 32;

/// Samples stored per operation; further samples are merged into the last.
const SAMPLES_MAX: usize = 4096;

/// Slow operations stored for the monitor; when there are more, the oldest are dropped.
const PENDING_MAX: usize = 8192;

/// Snapshots of the activity on the devices. They are 0.1 s apart while operations are slow, and 1 s
/// otherwise.
const SNAPSHOTS_MAX: usize = 64;

/// Results of the sampler, shared with the monitor.
#[derive(Debug, Default)]
pub struct SamplerResults {
    pub slow: VecDeque<SlowOperation>,
    /// Slow operations that were dropped before the monitor read them.
    pub dropped: u64,
    /// The waits of the operations in flight, as of the last poll.
    pub waiting: Vec<CurrentWait>,
    /// Stacks that could not be read.
    pub unreadable: u64,
    /// The device layers below each target's files.
    pub layers: HashMap<u32, Vec<u32>>,
}

/// An operation in flight and the cause of its wait.
#[derive(Clone, Debug)]
pub struct CurrentWait {
    pub target: u32,
    pub series: u32,
    pub started_ns: u64,
    pub cause: Cause,
    pub frames: String,
}

pub type SharedResults = Arc<Mutex<SamplerResults>>;

/// Locks the results. A panic while they are locked leaves them valid.
pub fn lock(results: &SharedResults) -> MutexGuard<'_, SamplerResults> {
    results.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread. Call this before privileges are dropped: the thread keeps the capabilities for reading
/// stacks.
///
/// # Errors
/// If the thread cannot be started, or keeps more privileges than it should.
pub fn start(
    ring: SlowRing,
    maps: SamplerMaps,
    threshold: Duration,
) -> Result<SharedResults, thread_capabilities::PrivilegeError> {
    let results = SharedResults::default();
    let shared = results.clone();
    privileges::spawn_stack_reader(move || Sampler::new(ring, maps, threshold, shared).run())?;
    Ok(results)
}

struct Sampler {
    ring: SlowRing,
    maps: SamplerMaps,
    threshold_ns: u64,
    watching_interval: Duration,
    results: SharedResults,
    /// End of the current sampling, 0 before the first slow operation.
    sampling_until_ns: u64,
    polled_ns: u64,
    /// Indices in use at the last scan for new threads, and the time of that scan.
    indices: Vec<u32>,
    rescanned_ns: u64,
    /// Duration of the last poll.
    poll_duration: Duration,
    /// By index of the thread and start of its operation: a thread may be in its next operation before the
    /// record of the last one is read.
    samples: HashMap<(u32, u64), OperationSamples>,
    snapshots: VecDeque<OwnerSnapshot>,
}

/// Samples of one operation.
struct OperationSamples {
    last_ns: u64,
    taken: Vec<StackSample>,
}

struct OwnerSnapshot {
    at_ns: u64,
    owners: HashMap<OwnerKey, Owner>,
}

impl Sampler {
    fn new(ring: SlowRing, maps: SamplerMaps, threshold: Duration, results: SharedResults) -> Self {
        Self {
            ring,
            maps,
            threshold_ns: u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX),
            watching_interval: (threshold * 2).clamp(SAMPLE_INTERVAL, POLL_WATCHING_MAX),
            results,
            sampling_until_ns: 0,
            polled_ns: 0,
            indices: Vec::new(),
            rescanned_ns: 0,
            poll_duration: Duration::ZERO,
            samples: HashMap::new(),
            snapshots: VecDeque::new(),
        }
    }

    /// Runs until no other owner of the results is left.
    fn run(mut self) {
        while Arc::strong_count(&self.results) > 1 {
            let every = self.poll_interval(monotonic_ns());
            let since = Duration::from_nanos(monotonic_ns().saturating_sub(self.polled_ns));
            if let Err(error) = self.wait(every.saturating_sub(since)) {
                tracing::error!(%error, "cannot wait for slow operations; sampling ends");
                return;
            }
            self.drain_ring();
            if monotonic_ns().saturating_sub(self.polled_ns)
                >= u64::try_from(every.as_nanos()).unwrap_or(u64::MAX)
            {
                self.poll_in_flight();
                self.poll_duration = Duration::from_nanos(monotonic_ns().saturating_sub(self.polled_ns));
            }
        }
    }

    /// Returns the interval between two polls.
    fn poll_interval(&self, now_ns: u64) -> Duration {
        if now_ns < self.sampling_until_ns {
            return SAMPLE_INTERVAL.max((self.poll_duration * PAUSE_PER_POLL).min(SAMPLE_INTERVAL_MAX));
        }
        // 0 if no operation was slow since the start.
        let is_watching = self.sampling_until_ns > 0 && now_ns < self.sampling_until_ns + WATCHING_FOR_NS;
        if is_watching { self.watching_interval } else { self.watching_interval.max(POLL_IDLE) }
    }

    /// Waits for a record, or until the next poll is due.
    fn wait(&self, limit: Duration) -> io::Result<()> {
        let descriptor = self.ring.descriptor();
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves the records of ended slow operations from the ring to the results.
    fn drain_ring(&mut self) {
        while let Some(record) = self.ring.pop() {
            self.sampling_until_ns = monotonic_ns() + SAMPLING_LINGER_NS;
            let samples = self.samples.remove(&(record.thread, record.started_ns));
            let taken = samples.map(|samples| samples.taken).unwrap_or_default();
            let exact = (record.used > 0).then(|| self.exact_waits(&record));
            let mut operation = SlowOperation::new(ended_at(&record), record, &taken, exact.as_deref());
            operation.neighbours = self.active_during(&record);
            let mut results = lock(&self.results);
            if results.slow.len() >= PENDING_MAX {
                results.slow.pop_front();
                results.dropped += 1;
            }
            results.slow.push_back(operation);
        }
    }

    /// Returns the waits that were recorded at every context switch, with cause and frames.
    fn exact_waits(&self, record: &SlowEvent) -> Vec<(Cause, String, u64)> {
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

    /// Inspects the operations in flight, and samples them if one was slow recently.
    fn poll_in_flight(&mut self) {
        let now_ns = monotonic_ns();
        self.polled_ns = now_ns;
        if now_ns < self.sampling_until_ns || now_ns.saturating_sub(self.rescanned_ns) > RESCAN_EVERY_NS {
            self.indices = self.maps.used_indices();
            self.rescanned_ns = now_ns;
        }
        let mut in_flight = self.maps.in_flight(&self.indices);
        if in_flight.iter().any(|(_, age_ns)| *age_ns > self.threshold_ns) {
            self.sampling_until_ns = now_ns + SAMPLING_LINGER_NS;
        }
        let is_sampling = now_ns < self.sampling_until_ns;
        self.take_snapshot(now_ns, is_sampling);
        if !is_sampling {
            self.samples.clear();
            lock(&self.results).waiting.clear();
            return;
        }
        in_flight.sort_by_key(|(_, age_ns)| std::cmp::Reverse(*age_ns));
        in_flight.truncate(SAMPLED_OPERATIONS_MAX);
        let busy = self.busy_layers(now_ns);
        let layers = lock(&self.results).layers.clone();
        let mut waiting = Vec::new();
        let mut unreadable = 0;
        for (thread, _) in &in_flight {
            let device_busy =
                layers.get(&thread.target).map(|under| under.iter().any(|layer| busy.contains(layer)));
            match kernel_stack::read(thread) {
                Ok(functions) => waiting.push(self.sample(thread, &functions, device_busy)),
                Err(error) if kernel_stack::has_ended(&error) => {}
                Err(_) => unreadable += 1,
            }
        }
        let mut results = lock(&self.results);
        results.waiting = waiting;
        results.unreadable += unreadable;
        drop(results);
        // Samples of ended operations are kept until their record arrives. Operations that ended within the
        // threshold have no record, so their samples expire.
        self.samples.retain(|_, samples| now_ns.saturating_sub(samples.last_ns) < SAMPLING_LINGER_NS);
    }

    /// Adds a sample of an operation, which represents the time since the last one.
    fn sample(&mut self, thread: &Thread, functions: &[String], device_busy: Option<bool>) -> CurrentWait {
        let now_ns = monotonic_ns();
        let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
        let (cause, frames) = (cause_of(&functions), top_frames(&functions));
        let started_ns = thread.started_ns;
        let new = || OperationSamples { last_ns: started_ns, taken: Vec::new() };
        let samples = self.samples.entry((thread.index, started_ns)).or_insert_with(new);
        let stands_for_ns = now_ns.saturating_sub(samples.last_ns);
        samples.last_ns = now_ns;
        let sample = StackSample { cause, frames: frames.clone(), device_busy, stands_for_ns };
        let is_full = samples.taken.len() >= SAMPLES_MAX;
        match samples.taken.last_mut() {
            // A hung operation has the same stack for hours.
            Some(last) if is_same_wait(last, &sample) || is_full => {
                last.stands_for_ns += stands_for_ns;
            }
            _ => samples.taken.push(sample),
        }
        CurrentWait { target: thread.target, series: thread.series, started_ns, cause, frames }
    }

    /// Returns the layers on which any request is in flight. Requests without a recorded end are omitted
    /// after `LOST_AFTER_NS`.
    fn busy_layers(&self, now_ns: u64) -> Vec<u32> {
        let requests = self.maps.requests();
        let recent =
            requests.iter().filter(|request| now_ns.saturating_sub(request.queued_ns) < LOST_AFTER_NS);
        let mut layers: Vec<u32> = recent.map(|request| request.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// Stores the totals of all owners, if the last snapshot is old enough.
    fn take_snapshot(&mut self, now_ns: u64, is_sampling: bool) {
        let every_ns = if is_sampling { 100_000_000 } else { 1_000_000_000 };
        if self.snapshots.back().is_some_and(|last| now_ns.saturating_sub(last.at_ns) < every_ns) {
            return;
        }
        let owners = self.maps.owners().into_iter().map(|owner| (owner.key, owner)).collect();
        self.snapshots.push_back(OwnerSnapshot { at_ns: now_ns, owners });
        if self.snapshots.len() > SNAPSHOTS_MAX {
            self.snapshots.pop_front();
        }
    }

    /// Returns the activity of other processes on an operation's devices since the last snapshot before it,
    /// of the three busiest.
    fn active_during(&self, record: &SlowEvent) -> Vec<DeviceActivity> {
        let layers = lock(&self.results).layers.get(&record.target).cloned().unwrap_or_default();
        let before = self.snapshots.iter().rev().find(|snapshot| snapshot.at_ns <= record.started_ns);
        let Some(before) = before.or(self.snapshots.front()) else { return Vec::new() };
        let own = self.maps.process_of(record.thread);
        let others = self.maps.owners().into_iter();
        let others = others.filter(|owner| layers.contains(&owner.key.layer) && Some(owner.key.tgid) != own);
        let mut active: Vec<_> = others.map(|now| activity(&now, before.owners.get(&now.key))).collect();
        active.retain(|activity| activity.requests + activity.syncs > 0);
        active.sort_by_key(|activity| std::cmp::Reverse(activity.requests + activity.syncs));
        active.truncate(3);
        // `collect` reused the allocation of all owners, 64 KiB on a busy host, and a thousand of these
        // vectors are kept.
        active.shrink_to_fit();
        active
    }
}

fn is_same_wait(a: &StackSample, b: &StackSample) -> bool {
    (a.cause, &a.frames, a.device_busy) == (b.cause, &b.frames, b.device_busy)
}

/// Returns the activity of an owner since an earlier reading.
fn activity(now: &Owner, before: Option<&Owner>) -> DeviceActivity {
    let requests = |owner: &Owner| owner.requests.iter().sum::<u64>();
    let then = before.copied().unwrap_or_default();
    let flush = probe_ebpf::io::Class::Flush as usize;
    DeviceActivity {
        key: now.key,
        comm: now.comm,
        requests: requests(now).saturating_sub(requests(&then)),
        flushes: now.requests[flush].saturating_sub(then.requests[flush]),
        syncs: now.syncs.saturating_sub(then.syncs),
        bytes: now.bytes.saturating_sub(then.bytes),
    }
}

/// Returns the wall-clock time of an operation's end.
fn ended_at(record: &SlowEvent) -> SystemTime {
    let ended_ns = record.started_ns.saturating_add(record.latency_ns);
    let ago = Duration::from_nanos(monotonic_ns().saturating_sub(ended_ns));
    SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
}
