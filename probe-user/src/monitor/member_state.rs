//! One member over all its incarnations: its counters survive a restart of its etcd and never decrease.

mod kernel_counters;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;

use kernel_counters::EndedIncarnations;

use super::{
    MonitorSettings, certificate_watch::CertificateWatch, environment::Environment, wait_totals::SlowTotals,
    window::Window,
};
use crate::{
    analysis::{
        crosscheck::{Ledger, Start},
        disk_metric::{DiskMetric, PerMetric},
        reexport::ReexportedMetrics,
        verdict::Verdict,
    },
    discovery::{Member, ProcessId},
    etcd::{Client, Scrape},
    kernel::{Kernel, NS_PER_TICK, Process},
    system::mount_info::Mount,
};

/// A copy that is older than this is not served: its series are absent until etcd answers again.
const COPY_AGE_MAX: Duration = Duration::from_secs(5);

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
        /// One sentence without file names: it is served over HTTP.
        error: String,
    },
}

/// The last copy of the re-exported metrics of a member.
#[derive(Clone, Debug)]
pub(super) struct ReexportCopy {
    /// Before the request was sent, so the copy is younger than this indicates.
    pub requested_at: Instant,
    pub reexported: Arc<ReexportedMetrics>,
}

/// One member.
pub struct MemberState {
    member: Member,
    /// Its kernel slot, once it has made a traced call.
    process: Option<Process>,
    environment: Environment,
    /// When its process ended; none while it runs.
    ended: Option<Instant>,
    /// None for a member that was never restarted, because it takes 140 KiB.
    previous: Option<EndedIncarnations>,
    slow: SlowTotals,
    ledgers: PerMetric<Ledger>,
    /// The current verdict, and since when it holds.
    current_verdict: Option<(Verdict, Instant)>,
    pub window: Window,
    pub last_scrape: LastScrape,
    /// By reason.
    pub scrape_errors: BTreeMap<&'static str, u64>,
    pub(super) certificates: CertificateWatch,
    /// Of the last scrape that was [`LastScrape::Done`] in this incarnation.
    pub(super) copy: Option<ReexportCopy>,
    /// When the last scrape of this incarnation ended, successful or not.
    pub(super) last_scrape_ended: Option<Instant>,
    /// None while a scrape is in progress.
    pub(super) client: Option<Client>,
}

impl MemberState {
    pub(super) fn new(member: &Member, window: Duration) -> Self {
        Self {
            member: member.clone(),
            process: None,
            environment: Environment::default(),
            // `begin` starts the first incarnation.
            ended: Some(Instant::now()),
            previous: None,
            slow: SlowTotals::default(),
            ledgers: PerMetric::default(),
            current_verdict: None,
            window: Window::new(window),
            last_scrape: LastScrape::NotYet,
            scrape_errors: BTreeMap::new(),
            certificates: CertificateWatch::default(),
            copy: None,
            last_scrape_ended: None,
            client: None,
        }
    }

    /// Starts a new incarnation.
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
        self.current_verdict = None;
        self.last_scrape = LastScrape::NotYet;
        self.copy = None;
        self.last_scrape_ended = None;
        self.environment = environment;
        self.certificates.begin();
        self.client = Some(
            Client::new(member.endpoints.clone(), settings.command_timeout)
                .with_spawner(settings.netns_spawner.clone())
                .with_allow_list(settings.allow_list.clone()),
        );
    }

    /// Updates the member with the result of a scan.
    pub(super) fn update(&mut self, member: Member, process: Option<Process>) {
        self.member = member;
        if let Some(process) = process {
            self.set_process(process);
        }
    }

    /// Returns whether this is the process of the current incarnation.
    pub(super) fn owns(&self, process: &Process) -> bool {
        self.id().is_some_and(|id| is_same_incarnation(process, id))
    }

    /// Looks up its kernel slot, which a process gets with its first traced call.
    ///
    /// Called before every reading: otherwise, the syncs of an etcd that was idle would appear to be missed
    /// until the next scan.
    pub(super) fn find_process(&mut self, kernel: &Kernel) {
        if self.process.is_none() {
            self.process = kernel.processes().into_iter().find(|process| self.owns(process));
        }
    }

    /// Sets its kernel slot, unless it has one already.
    pub(super) fn set_process(&mut self, process: Process) {
        self.process = self.process.or(Some(process));
    }

    /// Ends the incarnation: its counts move from the kernel's memory to the daemon's.
    pub(super) fn end(&mut self, kernel: &mut Kernel) {
        if !self.member.comm_matches
            && let Err(error) = kernel.watch(self.member.id.pid, false)
        {
            warn!(member = self.label(), %error, "cannot stop tracing an exited process by its pid");
        }
        for metric in DiskMetric::ALL {
            let finished = self.latencies_now(kernel, self.series_of(metric)).count();
            self.ledgers[metric].end(finished);
        }
        if let Some(process) = self.process.take() {
            self.previous.get_or_insert_with(EndedIncarnations::default).add(kernel, process);
        }
        self.client = None;
        self.ended = Some(Instant::now());
    }

    /// Checks its certificates while it runs.
    pub(super) fn check_certificates(&mut self) {
        if self.ended.is_none() {
            self.certificates.tick(&self.member);
        }
    }

    /// Returns when its certificates expire, in seconds since 1970, by
    /// [`crate::analysis::certificate_expiry::CertificateKind`]; nothing once it has ended.
    pub fn certificate_ends_s(&self) -> [Option<i64>; 3] {
        if self.ended.is_none() { self.certificates.ends_s() } else { [None; 3] }
    }

    /// Returns the process while it runs.
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

    /// Returns the mount of its WAL.
    pub fn mount(&self) -> &Mount {
        &self.environment.mounts[DiskMetric::WalFsync]
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns whether the last scrape succeeded and the scraped process still runs.
    pub fn is_up(&self) -> bool {
        self.id().is_some() && matches!(self.last_scrape, LastScrape::Done(_))
    }

    /// Returns etcd's version from the last scrape; none unless that scrape succeeded.
    pub fn version(&self) -> Option<&str> {
        match &self.last_scrape {
            LastScrape::Done(scrape) => scrape.version.as_deref(),
            _ => None,
        }
    }

    /// Returns the age of the last copy of etcd's own metrics, even if it is not served any more; none if
    /// this incarnation has none yet.
    pub fn copy_age(&self) -> Option<Duration> {
        Some(self.copy.as_ref()?.requested_at.elapsed())
    }

    /// Returns etcd's re-exported metrics; none if etcd has ended, the last scrape failed, or the copy is too
    /// old.
    pub fn reexported(&self) -> Option<&Arc<ReexportedMetrics>> {
        let copy =
            self.copy.as_ref().filter(|copy| self.is_up() && copy.requested_at.elapsed() <= COPY_AGE_MAX);
        copy.map(|copy| &copy.reexported)
    }

    /// Returns how long ago the process ended; none while it runs.
    pub fn ended_for(&self) -> Option<Duration> {
        self.ended.map(|ended| ended.elapsed())
    }

    pub fn ledger(&self, metric: DiskMetric) -> &Ledger {
        &self.ledgers[metric]
    }

    pub(super) fn ledger_mut(&mut self, metric: DiskMetric) -> &mut Ledger {
        &mut self.ledgers[metric]
    }

    /// Records the current verdict; returns the previous one if the verdict has changed.
    pub fn record_verdict(&mut self, verdict: Verdict) -> Option<Option<Verdict>> {
        let before = self.current_verdict.map(|(before, _)| before);
        if before == Some(verdict) {
            return None;
        }
        self.current_verdict = Some((verdict, Instant::now()));
        Some(before)
    }

    /// Returns the verdict that was recorded last; none before the first scrape.
    pub fn verdict(&self) -> Option<Verdict> {
        self.current_verdict.map(|(current, _)| current)
    }

    /// Returns how long this verdict has held, in seconds; none if it differs from the last recorded one.
    pub fn verdict_age_s(&self, verdict: Verdict) -> Option<f64> {
        let (_, since) = self.current_verdict.filter(|(current, _)| *current == verdict)?;
        Some(since.elapsed().as_secs_f64())
    }

    /// Returns the waits of slow operations, over all incarnations.
    pub fn slow(&self) -> &SlowTotals {
        &self.slow
    }

    pub(super) fn slow_mut(&mut self) -> &mut SlowTotals {
        &mut self.slow
    }
}

/// Returns whether both are the same incarnation of the same process; `/proc` has its start in ticks.
pub(super) fn is_same_incarnation(process: &Process, id: ProcessId) -> bool {
    process.pid == id.pid && process.started_ns / NS_PER_TICK == id.start_ticks
}
