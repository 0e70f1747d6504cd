//! One member over all its lives: counters outlive a restart of its etcd and never fall.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use probe_ebpf::series::{BACKEND_COMMIT, META_COMMIT, OPERATIONS, SERIES, WAL_FSYNC};

use tracing::warn;

use super::{
    MonitorSettings, certificate_watch::Certificates, environment::Environment, wait_totals::SlowTotals,
    window::Window,
};
use crate::system::mount_info::Mount;
use crate::{
    analysis::{
        crosscheck::{KernelReading, Ledger, Observations, Start},
        disk_metric::{BUCKET_BOUNDS_NS, DiskMetric, PerMetric},
        latency::{Latencies, TimeSpent, seconds},
        reexport::ReexportedMetrics,
        verdict::Verdict,
    },
    discovery::{Member, ProcessId},
    etcd::{Client, Scrape},
    kernel::{Kernel, Process, monotonic_ns},
};

/// A copy that is older than this is not served: its series are absent until etcd answers again.
pub const SERVED_FOR: Duration = Duration::from_secs(5);

/// A database that was used so recently may still be closing while the next one commits.
const BACKEND_CLOSES_NS: u64 = 60_000_000_000;

/// What ended lives counted.
#[derive(Clone, Debug)]
pub struct Past {
    series: Vec<Latencies>,
    time: Vec<TimeSpent>,
    /// By series and errno.
    errors: BTreeMap<(u32, u32), u64>,
}

impl Past {
    fn nothing() -> Self {
        Self {
            series: vec![Latencies::default(); SERIES as usize],
            time: vec![TimeSpent::default(); SERIES as usize],
            errors: BTreeMap::new(),
        }
    }

    /// Adds what the kernel counted of a process.
    fn add(&mut self, kernel: &Kernel, process: Process) {
        for series in 0..SERIES {
            self.series[series as usize].add(&kernel.latencies(process.target, series));
            self.time[series as usize].add(&kernel.time_spent(process.target, series));
        }
        for (key, count) in kernel.errors().into_iter().filter(|(key, _)| key.target == process.target) {
            *self.errors.entry((key.series, key.errno)).or_default() += count;
        }
    }
}

/// How the last scrape ended.
#[derive(Clone, Debug)]
pub enum LastScrape {
    NotYet,
    /// etcd answered, and it was the process that is traced.
    Done(Box<Scrape>),
    /// Another process answered.
    OtherProcess,
    Failed {
        reason: &'static str,
        /// One sentence that names no file, for it is served over HTTP.
        error: String,
    },
}

/// What is passed on of a member's own text.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    /// Before etcd was asked, so that the copy is younger than it seems.
    pub asked: Instant,
    pub reexported: Arc<ReexportedMetrics>,
}

/// One member.
pub struct MemberState {
    member: Member,
    /// Its place in the kernel, once it has made a call that the kernel side knows.
    process: Option<Process>,
    environment: Environment,
    /// When its process ended; none while it lives.
    ended: Option<Instant>,
    /// Of a member that was never restarted there is none, and it takes 140 KiB.
    past: Option<Past>,
    slow: SlowTotals,
    ledgers: PerMetric<Ledger>,
    /// The present verdict, and since when.
    held: Option<(Verdict, Instant)>,
    pub window: Window,
    pub last_scrape: LastScrape,
    /// By reason.
    pub scrape_errors: BTreeMap<&'static str, u64>,
    pub(super) certificates: Certificates,
    /// Of the last scrape that was [`LastScrape::Done`] in this life.
    pub(super) copy: Option<Copy>,
    /// When the last scrape of this life ended, however it did.
    pub(super) answered: Option<Instant>,
    /// Not here while a scrape is under way.
    pub(super) client: Option<Client>,
}

impl MemberState {
    pub(super) fn new(member: &Member, window: Duration) -> Self {
        Self {
            member: member.clone(),
            process: None,
            environment: Environment::default(),
            // It begins with `begin`.
            ended: Some(Instant::now()),
            past: None,
            slow: SlowTotals::default(),
            ledgers: PerMetric::default(),
            held: None,
            window: Window::new(window),
            last_scrape: LastScrape::NotYet,
            scrape_errors: BTreeMap::new(),
            certificates: Certificates::default(),
            copy: None,
            answered: None,
            client: None,
        }
    }

    /// A new life begins.
    pub(super) fn begin(
        &mut self,
        environment: Environment,
        start: Start,
        settings: &MonitorSettings,
        member: &Member,
    ) {
        self.ended = None;
        self.process = None;
        self.ledgers.iter_mut().for_each(|ledger| ledger.begin(start));
        self.window.clear();
        self.held = None;
        self.last_scrape = LastScrape::NotYet;
        self.copy = None;
        self.answered = None;
        self.environment = environment;
        self.certificates.begin();
        self.client = Some(
            Client::new(member.endpoints.clone(), settings.command_timeout)
                .through(settings.entrance.clone())
                .reexporting(settings.allowed.clone()),
        );
    }

    /// Takes in what a scan told.
    pub(super) fn describe(&mut self, member: Member, process: Option<Process>) {
        self.member = member;
        if let Some(process) = process {
            self.claim(process);
        }
    }

    /// Returns whether this is the process of the life that is.
    pub(super) fn owns(&self, process: &Process) -> bool {
        self.id().is_some_and(|id| super::is_same(process, id))
    }

    /// Looks for its place in the kernel, which a process gets with its first call there.
    ///
    /// Before every reading: until the next scan, an etcd that wakes up would seem to sync unseen.
    pub(super) fn locate(&mut self, kernel: &Kernel) {
        if self.process.is_none() {
            self.process = kernel.processes().into_iter().find(|process| self.owns(process));
        }
    }

    /// Takes a place in the kernel for its own, if it has none yet.
    pub(super) fn claim(&mut self, process: Process) {
        self.process = self.process.or(Some(process));
    }

    /// The life is over: its counts move from the kernel's memory to ours.
    pub(super) fn end(&mut self, kernel: &mut Kernel) {
        if !self.member.comm_matches
            && let Err(error) = kernel.watch(self.member.id.pid, false)
        {
            warn!(member = self.label(), %error, "a process that ended is still watched for");
        }
        for metric in DiskMetric::ALL {
            let finished = self.latencies_now(kernel, self.series_of(metric)).count();
            self.ledgers[metric].end(finished);
        }
        if let Some(process) = self.process.take() {
            self.past.get_or_insert_with(Past::nothing).add(kernel, process);
        }
        self.client = None;
        self.ended = Some(Instant::now());
    }

    /// Looks at its certificates, while it lives.
    pub(super) fn look_at_certificates(&mut self) {
        if self.ended.is_none() {
            self.certificates.tick(&self.member);
        }
    }

    /// Returns until when its certificates hold, by [`crate::analysis::certificate_expiry::CertificateKind`]; nothing once it has ended.
    pub fn certificate_ends_s(&self) -> [Option<i64>; 3] {
        if self.ended.is_none() { self.certificates.ends_s() } else { [None; 3] }
    }

    /// Returns the process, while it lives.
    pub fn id(&self) -> Option<ProcessId> {
        self.ended.is_none().then_some(self.member.id)
    }

    pub fn process(&self) -> Option<Process> {
        self.process
    }

    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Returns the value of the label `member`.
    pub fn label(&self) -> &str {
        &self.member.name
    }

    /// Returns what its WAL is mounted from.
    pub fn mount(&self) -> &Mount {
        &self.environment.mounts[DiskMetric::WalFsync]
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns whether the last scrape succeeded, and whom it asked still lives.
    pub fn is_up(&self) -> bool {
        self.id().is_some() && matches!(self.last_scrape, LastScrape::Done(_))
    }

    /// Returns etcd's version from the last scrape; none unless that succeeded.
    pub fn version(&self) -> Option<&str> {
        match &self.last_scrape {
            LastScrape::Done(scrape) => scrape.version.as_deref(),
            _ => None,
        }
    }

    /// Returns how old the last copy of etcd's own text is, however old; none if there was none in this life.
    pub fn copy_age(&self) -> Option<Duration> {
        Some(self.copy.as_ref()?.asked.elapsed())
    }

    /// Returns what etcd says of itself, unless it is dead, did not answer the last time, or the copy is too old.
    pub fn reexported(&self) -> Option<&Arc<ReexportedMetrics>> {
        let copy = self.copy.as_ref().filter(|copy| self.is_up() && copy.asked.elapsed() <= SERVED_FOR);
        copy.map(|copy| &copy.reexported)
    }

    pub fn gone_for(&self) -> Option<Duration> {
        self.ended.map(|ended| ended.elapsed())
    }

    pub fn ledger(&self, metric: DiskMetric) -> &Ledger {
        &self.ledgers[metric]
    }

    pub(super) fn ledger_mut(&mut self, metric: DiskMetric) -> &mut Ledger {
        &mut self.ledgers[metric]
    }

    /// Returns the series that is the kernel's twin of etcd's figure.
    pub fn series_of(&self, metric: DiskMetric) -> u32 {
        match metric {
            DiskMetric::WalFsync => WAL_FSYNC,
            // Without syncs a commit ends with its meta page.
            DiskMetric::BackendCommit if self.member.settings.unsafe_no_fsync => META_COMMIT,
            DiskMetric::BackendCommit => BACKEND_COMMIT,
        }
    }

    /// Returns a series over all lives.
    pub fn latencies(&self, kernel: &Kernel, series: u32) -> Latencies {
        let mut all = self.latencies_now(kernel, series);
        if let Some(past) = &self.past {
            all.add(&past.series[series as usize]);
        }
        all
    }

    /// Returns a series of the life that is.
    fn latencies_now(&self, kernel: &Kernel, series: u32) -> Latencies {
        self.process.map_or_else(Latencies::default, |process| kernel.latencies(process.target, series))
    }

    /// Returns how the time of a series was spent, over all lives.
    pub fn time_spent(&self, kernel: &Kernel, series: u32) -> TimeSpent {
        let mut all = self.past.as_ref().map_or_else(TimeSpent::default, |past| past.time[series as usize]);
        if let Some(process) = self.process {
            all.add(&kernel.time_spent(process.target, series));
        }
        all
    }

    /// Notes the verdict of this moment; returns the one before if it is another one.
    pub fn record_verdict(&mut self, verdict: Verdict) -> Option<Option<Verdict>> {
        let before = self.held.map(|(before, _)| before);
        if before == Some(verdict) {
            return None;
        }
        self.held = Some((verdict, Instant::now()));
        Some(before)
    }

    /// Returns the verdict that was noted last; none before the first scrape.
    pub fn verdict(&self) -> Option<Verdict> {
        self.held.map(|(held, _)| held)
    }

    /// Returns how long this has been the verdict, in seconds; none if it is another one than the last noted.
    pub fn verdict_age_s(&self, verdict: Verdict) -> Option<f64> {
        let (_, since) = self.held.filter(|(held, _)| *held == verdict)?;
        Some(since.elapsed().as_secs_f64())
    }

    /// Returns what slow operations waited for, over all lives.
    pub fn slow(&self) -> &SlowTotals {
        &self.slow
    }

    pub(super) fn slow_mut(&mut self) -> &mut SlowTotals {
        &mut self.slow
    }

    /// Returns how often operations failed, by series and errno, over all lives.
    pub fn errors(&self, kernel: &Kernel) -> BTreeMap<(u32, u32), u64> {
        let mut all = self.past.as_ref().map(|past| past.errors.clone()).unwrap_or_default();
        if let Some(process) = self.process {
            for (key, count) in kernel.errors().into_iter().filter(|(key, _)| key.target == process.target) {
                *all.entry((key.series, key.errno)).or_default() += count;
            }
        }
        all
    }

    /// Returns the age of the oldest operation in flight of each series of [`OPERATIONS`], in seconds.
    pub fn in_flight_s(&self, kernel: &Kernel) -> [f64; OPERATIONS.len()] {
        let mut oldest = [0.0; OPERATIONS.len()];
        let Some(process) = self.process else { return oldest };
        for operation in kernel.in_flight().iter().filter(|operation| operation.target == process.target) {
            if let Some(age_s) = oldest.get_mut(operation.series as usize) {
                *age_s = seconds(operation.age_ns).max(*age_s);
            }
        }
        oldest
    }

    /// Reads what the kernel counted of a figure in the life that is, in the order that the cross-check asks for.
    pub fn reading(&self, kernel: &Kernel, metric: DiskMetric) -> (KernelReading, Latencies) {
        let series = self.series_of(metric);
        let before_ns = monotonic_ns();
        let latencies = self.latencies_now(kernel, series);
        let finished = observations(&latencies);
        let (entered, sequences) = match self.process {
            Some(process) => (kernel.entered(process.target, series), sequences(kernel, process, metric)),
            None => (0, 1),
        };
        (KernelReading { at_ns: before_ns, entered, sequences, finished }, latencies)
    }
}

/// Returns how many commits can be under way independently of each other.
fn sequences(kernel: &Kernel, process: Process, metric: DiskMetric) -> u32 {
    match metric {
        DiskMetric::WalFsync => 1,
        DiskMetric::BackendCommit => {
            let since_ns = monotonic_ns().saturating_sub(BACKEND_CLOSES_NS);
            let used = kernel.state(process.target).backends;
            let recent =
                used.iter().filter(|backend| backend.inode != 0 && backend.used_ns > since_ns).count();
            u32::try_from(recent).unwrap_or(u32::MAX).max(1)
        }
    }
}

fn observations(latencies: &Latencies) -> Observations {
    Observations {
        count: latencies.count(),
        sum_s: latencies.sum_seconds(),
        at_most: latencies.at_most(&BUCKET_BOUNDS_NS),
    }
}
