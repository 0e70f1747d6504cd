//! Evidence that a fault occurred, and that nothing larger disturbed it: what etcd, its disk and the machine
//! did during an attempt, measured without the probe.
//!
//! The sources are etcd's own histograms, the kernel's scheduler statistics in `/proc`, a timer on a thread
//! of the test, and a file that the test itself syncs. A case states its conditions as numbers with
//! [`Conditions`]. They never include a result of the probe: a wrong result is not repeated.

use std::fmt::{self, Display};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::etcd::Etcd;
use crate::faults::attempts::Attempt;
use crate::machine::cancel::Cancel;
use crate::machine::http::Endpoint;
use crate::probe::metrics::Metrics;

const WAL_FSYNC: &str = "etcd_disk_wal_fsync_duration_seconds";
const BACKEND_COMMIT: &str = "etcd_disk_backend_commit_duration_seconds";

/// The bound of etcd's buckets above its limit of 10 ms for a WAL sync.
const SLOW_SYNC_S: f64 = 0.016;

/// The limits of a healthy member, and the bounds of etcd's own buckets below them: powers of two in
/// milliseconds. With few events above these bounds, the p99 is certainly below the limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The limit for the p99 of WAL syncs.
    pub sync: Duration,
    /// The limit for the p99 of commits.
    pub commit: Duration,
    sync_bound_s: f64,
    commit_bound_s: f64,
}

impl Limits {
    /// The guidance of etcd, which is the default of the probe.
    pub const GUIDANCE: Self = Self {
        sync: Duration::from_millis(10),
        commit: Duration::from_millis(25),
        sync_bound_s: 0.008,
        commit_bound_s: 0.016,
    };

    /// Four times as much: next to a process that keeps a CPU busy, even a sync in memory takes up to 10 ms.
    pub const BUSY: Self = Self {
        sync: Duration::from_millis(40),
        commit: Duration::from_millis(100),
        sync_bound_s: 0.032,
        commit_bound_s: 0.064,
    };
}

/// The interval of the timer: that of the probe's sampler, which depends on the CPU in the same way.
const TICK: Duration = Duration::from_millis(5);

/// A tick that is later than this counts as late. An idle machine is about 0.1 ms late.
const TOLERATED: Duration = Duration::from_millis(2);

/// The conditions of a case, with the measured values.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    all: Vec<String>,
    unmet: Vec<String>,
}

impl Conditions {
    /// Adds the condition that a value is at least this.
    #[must_use]
    pub fn at_least(self, what: &str, value: f64, min: f64) -> Self {
        self.add(value >= min, format!("{what} {value:.3}, at least {min}"))
    }

    /// Adds the condition that a value is at most this.
    #[must_use]
    pub fn at_most(self, what: &str, value: f64, max: f64) -> Self {
        self.add(value <= max, format!("{what} {value:.3}, at most {max}"))
    }

    fn add(mut self, holds: bool, text: String) -> Self {
        if !holds {
            self.unmet.push(text.clone());
        }
        self.all.push(text);
        self
    }

    /// Returns the value of an attempt if every condition holds, else the conditions that do not.
    pub fn judge<T>(self, value: T) -> Attempt<T> {
        println!("conditions: {self}");
        if self.unmet.is_empty() { Attempt::Valid(value) } else { Attempt::Disturbed(self.unmet.join(", ")) }
    }
}

impl Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.all.join("; "))
    }
}

/// A histogram of etcd: its own timer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub count: f64,
    pub sum_s: f64,
    /// Upper bounds in seconds, and the number of events up to each.
    buckets: Vec<(f64, f64)>,
}

impl Observed {
    fn read(metrics: &Metrics, name: &str) -> anyhow::Result<Self> {
        let value = |suffix: &str| {
            let name = format!("{name}_{suffix}");
            metrics.value(&name, &[]).with_context(|| format!("cannot find {name}"))
        };
        let name = format!("{name}_bucket");
        let buckets = metrics.all(&name, &[]).filter_map(|bucket| {
            let bound = bucket.labels.get("le")?.parse().ok()?;
            Some((bound, bucket.value))
        });
        Ok(Self { count: value("count")?, sum_s: value("sum")?, buckets: buckets.collect() })
    }

    /// Returns the events since an earlier reading.
    fn since(self, before: &Self) -> Self {
        let buckets = self.buckets.iter().zip(&before.buckets);
        Self {
            count: self.count - before.count,
            sum_s: self.sum_s - before.sum_s,
            buckets: buckets.map(|((bound, now), (_, before))| (*bound, now - before)).collect(),
        }
    }

    /// Returns the number of events above a bound of the buckets.
    pub fn above(&self, bound_s: f64) -> f64 {
        let below = self.buckets.iter().find(|(bound, _)| (bound - bound_s).abs() < 1e-9);
        below.map_or(0.0, |(_, count)| self.count - count)
    }

    /// Returns the share of events above a bound of the buckets; 0 without events.
    pub fn share_above(&self, bound_s: f64) -> f64 {
        self.above(bound_s) / self.count.max(1.0)
    }
}

/// A measurement in progress: etcd's histograms, the run-queue delay of its threads, and the timer.
#[derive(Debug)]
pub struct Timers {
    etcd: Endpoint,
    pid: u32,
    before: Reading,
    started: Instant,
    ticker: Ticker,
}

#[derive(Clone, Debug)]
struct Reading {
    wal_syncs: Observed,
    commits: Observed,
    run_queue: Duration,
}

impl Reading {
    fn of(etcd: &Endpoint, pid: u32) -> anyhow::Result<Self> {
        let metrics = Metrics::parse(&etcd.get("/metrics")?.text()?)?;
        Ok(Self {
            wal_syncs: Observed::read(&metrics, WAL_FSYNC)?,
            commits: Observed::read(&metrics, BACKEND_COMMIT)?,
            run_queue: run_queue_delay(pid)?,
        })
    }
}

/// What was measured from [`Timers::start`] to [`Timers::stop`].
#[derive(Clone, Debug)]
pub struct Evidence {
    /// etcd's own figures.
    pub wal_syncs: Observed,
    pub commits: Observed,
    /// How long etcd's threads were runnable without a CPU, added up over the threads.
    pub run_queue: Duration,
    pub lateness: Lateness,
    elapsed: Duration,
    window: Option<Duration>,
}

impl Timers {
    pub fn start(etcd: &Etcd) -> anyhow::Result<Self> {
        let (endpoint, pid) = (etcd.endpoint(), etcd.pid());
        let before = Reading::of(&endpoint, pid)?;
        Ok(Self { etcd: endpoint, pid, before, started: Instant::now(), ticker: Ticker::start() })
    }

    pub fn stop(self) -> anyhow::Result<Evidence> {
        let now = Reading::of(&self.etcd, self.pid)?;
        Ok(Evidence {
            wal_syncs: now.wal_syncs.since(&self.before.wal_syncs),
            commits: now.commits.since(&self.before.commits),
            run_queue: now.run_queue.saturating_sub(self.before.run_queue),
            elapsed: self.started.elapsed(),
            window: None,
            lateness: self.ticker.stop(),
        })
    }
}

impl Evidence {
    /// States how much of the measured time the window of `check` was.
    #[must_use]
    pub fn of_window(self, window: Duration) -> Self {
        Self { window: Some(window), ..self }
    }

    /// Returns the number of WAL syncs in the window, if they were evenly distributed.
    fn syncs_in_window(&self) -> f64 {
        let share =
            self.window.map_or(1.0, |window| window.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9));
        self.wal_syncs.count * share.min(1.0)
    }

    /// Returns the conditions for a healthy member: by etcd's own timer, hardly any event is slow.
    ///
    /// The window of `check` is a part of the measured time, more than four fifths: a share of 0.8 % here is
    /// below 1 % there. It has less than 100 commits; five slow ones of so few are significant.
    pub fn healthy(&self, limits: Limits) -> Conditions {
        let Limits { sync_bound_s, commit_bound_s, .. } = limits;
        let slow = self.wal_syncs.share_above(sync_bound_s);
        Conditions::default()
            .at_least("WAL syncs in the window", self.syncs_in_window(), 200.0)
            .at_most(&format!("share of WAL syncs above {sync_bound_s} s"), slow, 0.008)
            .at_most(&format!("commits above {commit_bound_s} s"), self.commits.above(commit_bound_s), 4.0)
    }

    /// Returns the number of events above the bounds of these limits.
    pub fn slow_by(&self, limits: Limits) -> f64 {
        self.wal_syncs.above(limits.sync_bound_s) + self.commits.above(limits.commit_bound_s)
    }

    /// Returns the conditions for a slow member: by etcd's own timer, more than one event in a hundred is
    /// slow.
    pub fn slow(&self) -> Conditions {
        Conditions::default().at_least("WAL syncs in the window", self.syncs_in_window(), 25.0).at_least(
            "share of WAL syncs above 16 ms",
            self.wal_syncs.share_above(SLOW_SYNC_S),
            0.02,
        )
    }

    /// Returns the conditions for a member that its storage makes slow: [`Evidence::slow`], and waiting for a
    /// CPU takes less than half of the time of its syncs.
    pub fn slow_by_storage(&self) -> Conditions {
        self.slow_by_storage_within(0.5)
    }

    /// Returns the same conditions with another limit of the run-queue delay per second of WAL syncs.
    pub fn slow_by_storage_within(&self, run_queue_share_max: f64) -> Conditions {
        let run_queue_share = self.run_queue_share();
        self.slow().at_most("run-queue delay per second of WAL syncs", run_queue_share, run_queue_share_max)
    }

    /// Returns the run-queue delay of all threads relative to the time of all WAL syncs.
    pub fn run_queue_share(&self) -> f64 {
        self.run_queue.as_secs_f64() / self.wal_syncs.sum_s.max(f64::EPSILON)
    }
}

impl Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wal_syncs, commits, run_queue, lateness, .. } = self;
        write!(
            f,
            "{} WAL syncs in {:.2} s, {:.1} % above 8 ms, {:.1} % above 16 ms; {} commits, {} above 16 ms; \
             {run_queue:.2?} in the run queue; {lateness}",
            wal_syncs.count,
            wal_syncs.sum_s,
            wal_syncs.share_above(Limits::GUIDANCE.sync_bound_s) * 100.0,
            wal_syncs.share_above(SLOW_SYNC_S) * 100.0,
            commits.count,
            commits.above(Limits::GUIDANCE.commit_bound_s)
        )
    }
}

/// Returns the run-queue delay of the calling thread.
fn own_delay() -> io::Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    delay_in(&text).ok_or_else(|| io::Error::other(format!("cannot read a delay from {text:?}")))
}

/// Parses the second field of `schedstat`, in nanoseconds.
fn delay_in(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Returns how long the threads of a process were runnable without a CPU, added up. Threads that have ended
/// are not included.
pub fn run_queue_delay(pid: u32) -> anyhow::Result<Duration> {
    let directory = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
    let mut delay = Duration::ZERO;
    for thread in threads.flatten() {
        let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
        delay += delay_in(&text).with_context(|| format!("cannot read a delay from {text:?}"))?;
    }
    Ok(delay)
}

/// How late a thread ran that requested the CPU every 5 ms: the machine's own slowness.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lateness {
    /// The share of the time by which ticks were more than 2 ms late.
    pub share: f64,
    pub worst: Duration,
    /// The sum of these delays.
    pub total: Duration,
}

impl Lateness {
    /// Returns the conditions for an attempt whose times the test compares with limits.
    pub fn small(&self) -> Conditions {
        Conditions::default().at_most("late share of a timer of 5 ms", self.share, 0.25).at_most(
            "seconds of its worst delay",
            self.worst.as_secs_f64(),
            0.2,
        )
    }
}

impl Display for Lateness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "late for {:.1} % of the time, {:.0?} at worst", self.share * 100.0, self.worst)
    }
}

/// A thread that requests the CPU every 5 ms and records how late it runs. Ended on drop.
#[derive(Debug)]
pub struct Ticker {
    stop: Cancel,
    thread: Option<JoinHandle<Lateness>>,
}

impl Ticker {
    pub fn start() -> Self {
        let stop = Cancel::default();
        let shared = stop.clone();
        Self { stop, thread: Some(thread::spawn(move || tick(&shared))) }
    }

    /// Ends the thread and returns its record.
    pub fn stop(mut self) -> Lateness {
        self.stop.cancel();
        let record = self.thread.take().map(JoinHandle::join);
        record.map_or_else(Lateness::default, |record| {
            record.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn tick(stop: &Cancel) -> Lateness {
    let started = Instant::now();
    let mut record = Lateness::default();
    while !stop.is_cancelled() {
        let since = Instant::now();
        thread::sleep(TICK);
        let late = since.elapsed().saturating_sub(TICK);
        if late > TOLERATED {
            record.total += late;
            record.worst = record.worst.max(late);
        }
    }
    record.share = record.total.as_secs_f64() / started.elapsed().as_secs_f64().max(f64::EPSILON);
    record
}

/// Measures a time that a test limits.
#[derive(Debug)]
pub struct Stopwatch {
    since: Instant,
    ticker: Ticker,
}

/// A time, and how late the machine was meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub elapsed: Duration,
    pub lateness: Lateness,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { since: Instant::now(), ticker: Ticker::start() }
    }

    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    pub fn stop(self) -> Measured {
        Measured { elapsed: self.since.elapsed(), lateness: self.ticker.stop() }
    }
}

impl Measured {
    /// Returns the time without the machine's lateness: an estimate for an idle machine.
    pub fn when_idle(&self) -> Duration {
        self.elapsed.saturating_sub(self.lateness.total)
    }
}

impl Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2?} ({})", self.elapsed, self.lateness)
    }
}

/// A thread that overwrites and syncs one file at intervals, and times each such sync. Ended on drop.
#[derive(Debug)]
pub struct SyncTimer {
    stop: Cancel,
    thread: Option<JoinHandle<io::Result<Vec<TimedSync>>>>,
}

/// One sync of a [`SyncTimer`].
#[derive(Clone, Copy, Debug)]
pub struct TimedSync {
    pub started: Instant,
    pub took: Duration,
    /// The part of it that the thread was runnable without a CPU.
    pub run_queue: Duration,
}

impl TimedSync {
    /// Returns whether it was in progress during all of this time.
    pub fn spans(&self, from: Instant, to: Instant) -> bool {
        self.started <= from && self.started + self.took >= to
    }
}

impl SyncTimer {
    /// Starts to sync a file in this directory, with this pause between two syncs.
    pub fn start(directory: &Path, pause: Duration) -> anyhow::Result<Self> {
        let path = directory.join("timer");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        // Its block is allocated before the first timed sync: none of them depends on the journal.
        file.write_all_at(&[0; 4096], 0)
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))?;
        let stop = Cancel::default();
        let shared = stop.clone();
        let thread = thread::spawn(move || {
            let mut syncs = Vec::new();
            while !shared.is_cancelled() {
                // A frozen file system blocks the write already.
                let (queued, started) = (own_delay()?, Instant::now());
                file.write_all_at(&[1; 512], 0)?;
                file.sync_data()?;
                let took = started.elapsed();
                let run_queue = own_delay()?.saturating_sub(queued);
                syncs.push(TimedSync { started, took, run_queue });
                thread::sleep(pause);
            }
            Ok(syncs)
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the thread after the sync in progress and returns all syncs.
    pub fn stop(mut self) -> anyhow::Result<Vec<TimedSync>> {
        self.stop.cancel();
        let thread = self.thread.take().context("it was stopped already")?;
        thread.join().ok().context("the timer of syncs panicked")?.context("cannot sync the timer's file")
    }
}

impl Drop for SyncTimer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Returns the share of the time of these syncs in which their thread was runnable without a CPU.
pub fn run_queue_share(syncs: &[TimedSync]) -> f64 {
    let total = |part: fn(&TimedSync) -> Duration| syncs.iter().map(part).sum::<Duration>().as_secs_f64();
    total(|sync| sync.run_queue) / total(|sync| sync.took).max(f64::EPSILON)
}

/// Returns the median duration of some syncs, in milliseconds; 0 for none.
pub fn median_ms(syncs: &[TimedSync]) -> f64 {
    let mut took: Vec<_> = syncs.iter().map(|sync| sync.took).collect();
    took.sort_unstable();
    took.get(took.len() / 2).map_or(0.0, |median| median.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmet_condition_is_named_with_its_value() {
        let both = |value| Conditions::default().at_least("syncs", value, 30.0).at_most("late", value, 50.0);
        let cases = [
            (40.0, Attempt::Valid(7), "both hold"),
            (12.5, Attempt::Disturbed("syncs 12.500, at least 30".to_owned()), "too few"),
            (60.0, Attempt::Disturbed("late 60.000, at most 50".to_owned()), "too much"),
        ];
        for (value, expected, why) in cases {
            assert_eq!(both(value).judge(7), expected, "{why}");
        }
    }

    #[test]
    fn etcds_histogram_is_the_difference_of_two_readings() {
        let page = |fast: u32, slow: u32| {
            let name = "etcd_disk_wal_fsync_duration_seconds";
            let text = format!(
                "# TYPE {name} histogram\n{name}_bucket{{le=\"0.008\"}} {fast}\n{name}_bucket{{le=\"0.016\"}} \
                 {slow}\n{name}_bucket{{le=\"+Inf\"}} {slow}\n{name}_sum {slow}\n{name}_count {slow}\n"
            );
            Observed::read(&Metrics::parse(&text).unwrap(), name).unwrap()
        };
        let during = page(13, 24).since(&page(10, 20));
        assert!((during.count - 4.0).abs() < 1e-9 && (during.sum_s - 4.0).abs() < 1e-9, "{during:?}");
        assert!((during.share_above(Limits::GUIDANCE.sync_bound_s) - 0.25).abs() < 1e-9, "{during:?}");
        assert!(during.share_above(SLOW_SYNC_S).abs() < 1e-9, "{during:?}");
        assert!(page(0, 0).share_above(Limits::GUIDANCE.sync_bound_s).abs() < 1e-9, "no events");
    }

    #[test]
    fn the_delay_is_the_second_field() {
        assert_eq!(delay_in("499774 213418 2\n"), Some(Duration::from_nanos(213_418)));
        assert_eq!(delay_in("499774"), None);
    }

    #[test]
    fn the_timers_measure_this_process() {
        let ticker = Ticker::start();
        assert!(run_queue_delay(std::process::id()).unwrap() < Duration::from_hours(1));
        thread::sleep(Duration::from_millis(50));
        assert!((0.0..=1.0).contains(&ticker.stop().share));

        let timer = SyncTimer::start(&std::env::temp_dir(), Duration::from_millis(1)).unwrap();
        thread::sleep(Duration::from_millis(20));
        let syncs = timer.stop().unwrap();
        assert!(!syncs.is_empty() && median_ms(&syncs) >= 0.0);
        assert!((0.0..=1.0).contains(&run_queue_share(&syncs)), "{syncs:?}");
        let TimedSync { started, took, .. } = syncs[0];
        assert!(syncs[0].spans(started, started + took) && !syncs[0].spans(started, started + took * 2));
    }
}
