//! Brings the kernel's counts, the members and etcd's own metrics together, over restarts of each.
//!
//! [`Monitor`] is the state; `scrape` asks etcds, `freshness` when somebody wants to know now; `losses` is where the time went and `slow_log` the last slow operations;
//! `window` remembers what the verdict looks back on.

pub mod certificate_watch;
mod self_test_status;
pub mod on_demand;
mod retention;
pub mod wait_totals;
mod scrape_round;
mod slow_log;
pub mod environment;
mod member_state;
mod window;
mod device_evidence;
mod gather_evidence;
mod assess;
mod metrics_snapshot;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use probe_ebpf::series::{BACKEND_COMMIT, WAL_FSYNC};
use tokio::sync::watch;
use tracing::{info, warn};

use environment::Host;
pub use member_state::{LastScrape, MemberState};
pub use scrape_round::{is_from, scrape_all};
use self_test_status::SelfTestStatus;
pub use slow_log::SlowLog;
pub use window::Window;

use crate::{
    analysis::{
        crosscheck::Start,
        reexport::{AllowList, OmittedSamples},
        thresholds::Thresholds,
    },
    discovery::{Member, Overrides, ProcessId, Scanner},
    kernel::{
        Hook, Kernel, NS_PER_TICK, Process,
        sampler::{self, SharedFindings, Waiting},
    },
    system::privileges::NetnsSpawner,
};

/// How often threads that ended in living processes are looked for; Go seldom ends one.
const THREADS_EVERY: Duration = Duration::from_secs(10);

/// How long a self-test's answer is good for.
pub const TESTED_EVERY: Duration = Duration::from_secs(5);

/// What tells one member from another over restarts: etcd's name and its data directory.
pub type MemberKey = (String, PathBuf);

/// What the monitor is to look for, and how.
#[derive(Clone, Debug)]
pub struct MonitorSettings {
    pub process_names: Vec<String>,
    pub overrides: Overrides,
    pub command_timeout: Duration,
    pub entrance: NetnsSpawner,
    pub window: Duration,
    pub thresholds: Thresholds,
    /// Which of etcd's own families are passed on.
    pub allowed: Arc<AllowList>,
}

/// All that is known.
pub struct Monitor {
    pub settings: MonitorSettings,
    kernel: Kernel,
    findings: SharedFindings,
    slow_log: SlowLog,
    host: Host,
    eyesight: SelfTestStatus,
    scanner: Scanner,
    members: BTreeMap<MemberKey, MemberState>,
    /// Processes that could not be examined, so that each is reported once.
    unreadable: BTreeMap<u32, String>,
    unreadable_total: u64,
    unclaimed: u64,
    threads_looked_at: Instant,
    /// What of etcd's own text could not be passed on, over all scrapes.
    omitted: OmittedSamples,
    /// Told of every scrape that ends.
    scrape_ended: watch::Sender<()>,
}

/// The monitor as the tasks of the daemon share it.
pub type SharedMonitor = Arc<Mutex<Monitor>>;

/// Locks the monitor. No lock is held across an await, and whoever panicked with it left counters that are still true.
pub fn lock(shared: &SharedMonitor) -> MutexGuard<'_, Monitor> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    /// Takes a kernel side that has just passed its self-test.
    pub fn new(kernel: Kernel, findings: SharedFindings, settings: MonitorSettings) -> Self {
        Self {
            settings,
            kernel,
            findings,
            slow_log: SlowLog::default(),
            host: Host::read(),
            eyesight: SelfTestStatus::passed_now(),
            scanner: Scanner::default(),
            members: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            unreadable_total: 0,
            unclaimed: 0,
            threads_looked_at: Instant::now(),
            omitted: OmittedSamples::default(),
            scrape_ended: watch::Sender::new(()),
        }
    }

    /// Returns how the programs are attached.
    pub fn hook(&self) -> Hook {
        self.kernel.hook()
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    pub fn members(&self) -> impl Iterator<Item = &MemberState> {
        self.members.values()
    }

    /// Tests whether the programs see what happens, if the last test is older than this.
    pub fn run_self_test(&mut self, at_most: Duration) {
        self.eyesight.test(&mut self.kernel, at_most);
    }

    /// Returns why the last self-test failed, if it did.
    pub fn self_test_failure(&self) -> Option<&str> {
        self.eyesight.failure()
    }

    /// Returns the last slow operations of all members.
    pub fn slow_log(&self) -> &SlowLog {
        &self.slow_log
    }

    /// Returns how many slow operations nobody took in time, and how many stacks could not be read.
    pub fn sampler_misses(&self) -> [(&'static str, u64); 2] {
        let findings = sampler::lock(&self.findings);
        [("slow_dropped", findings.dropped), ("stack_unreadable", findings.unreadable)]
    }

    /// Returns what the operations of a target in flight wait for.
    pub fn waiting(&self, target: u32) -> Vec<Waiting> {
        let findings = sampler::lock(&self.findings);
        findings.waiting.iter().filter(|waiting| waiting.target == target).cloned().collect()
    }

    /// Returns the path of a control group that block I/O is charged to, if it is known.
    pub fn cgroup(&self, id: u64) -> Option<String> {
        self.host.cgroup(id).map(str::to_owned)
    }

    /// Returns the host's devices and control groups.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Tells the sampler which devices are under whose files, and stops to watch what nobody is on.
    fn publish_devices(&mut self) {
        let alive = self.members.values().filter(|tracked| tracked.id().is_some());
        let layers: HashMap<u32, Vec<u32>> = alive
            .clone()
            .filter_map(|tracked| Some((tracked.process()?.target, tracked.environment().layers())))
            .collect();
        let used: BTreeSet<u32> = alive.flat_map(|tracked| tracked.environment().layers()).collect();
        self.host.forget(&used, self.kernel.block_mut());
        sampler::lock(&self.findings).layers = layers;
    }

    /// Takes over what the sampler has found since the last time.
    pub fn drain_sampler(&mut self) {
        let found: Vec<_> = sampler::lock(&self.findings).slow.drain(..).collect();
        if !found.is_empty() {
            // A member's first operation may be a slow one, and gives it its place.
            self.members.values_mut().for_each(|tracked| tracked.locate(&self.kernel));
        }
        for operation in found {
            let target = operation.record.target;
            let of_target =
                |tracked: &&mut MemberState| tracked.process().is_some_and(|own| own.target == target);
            // One of a process that is not known as a member yet waits for none: it would wait for ever for what is none.
            if let Some(tracked) = self.members.values_mut().find(of_target) {
                tracked.slow_mut().add(&operation);
                self.slow_log.push(tracked.label().to_owned(), operation);
            }
        }
    }

    /// Looks for members that came and went. Called each second.
    pub fn scan(&mut self) {
        self.kernel.flush_log();
        self.drain_sampler();
        self.run_self_test(TESTED_EVERY);
        self.retire_dead();
        let processes = self.kernel.processes();
        let suspects: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        let scan = self.scanner.scan(&self.settings.overrides, &self.settings.process_names, &suspects);
        let mut unreadable = BTreeMap::new();
        for process in scan.unreadable {
            if !self.unreadable.contains_key(&process.pid) {
                warn!(pid = process.pid, "cannot examine a process: {process}");
                self.unreadable_total += 1;
            }
            unreadable.insert(process.pid, process.to_string());
        }
        self.unreadable = unreadable;
        for member in scan.members {
            let process = processes.iter().find(|process| is_same(process, member.id)).copied();
            self.track(member, process);
        }
        self.members.values_mut().for_each(MemberState::look_at_certificates);
        self.publish_devices();
        self.host.name_cgroups(self.kernel.block());
        // What a verdict looks back on is most of what a member takes of our memory.
        let window = self.settings.window;
        let silent = self.members.values_mut().filter(|tracked| tracked.gone_for() > Some(window));
        silent.for_each(|tracked| tracked.window.clear());
        let gone = self.members.iter().filter_map(|(key, tracked)| Some((key.clone(), tracked.gone_for()?)));
        for key in retention::forgotten(gone.collect()) {
            self.members.remove(&key);
        }
        if self.threads_looked_at.elapsed() > THREADS_EVERY {
            self.threads_looked_at = Instant::now();
            if let Err(error) = self.kernel.release_ended_threads() {
                warn!(%error, "threads that ended keep their slots");
            }
            if let Err(error) = self.kernel.block_mut().forget_idle_owners() {
                warn!(%error, "those who are idle keep their places");
            }
        }
    }

    fn track(&mut self, member: Member, process: Option<Process>) {
        let key = (member.settings.name.clone(), member.data_dir.clone());
        let tracked =
            self.members.entry(key).or_insert_with(|| MemberState::new(&member, self.settings.window));
        if tracked.id() != Some(member.id) {
            // Rounded down to a tick, so a process that started just after the probe may pass for an older one; never
            // the other way round.
            let started_ns =
                process.map_or(member.id.start_ticks * NS_PER_TICK, |process| process.started_ns);
            // Who goes by another name is watched only from here on.
            let seen = member.comm_matches && self.kernel.observed_start_of(started_ns);
            let start = if seen { Start::Observed } else { Start::Missed };
            info!(
                member = member.name, pid = member.id.pid, data_dir = %member.data_dir.display(),
                from_birth = start == Start::Observed, "member found"
            );
            if tracked.id().is_some() {
                // Its predecessor died after this scan had looked for the dead; two cannot hold one WAL.
                tracked.end(&mut self.kernel);
            }
            if !member.comm_matches
                && let Err(error) = self.kernel.watch(member.id.pid, true)
            {
                warn!(member = member.name, %error, "member is not measured");
            }
            let environment = self.host.surround(&member, self.kernel.block_mut());
            tracked.begin(environment, start, &self.settings, &member);
        }
        tracked.describe(member, process);
    }

    /// Takes over the counts of processes that have ended, and gives their place in the kernel to others.
    fn retire_dead(&mut self) {
        for process in self.kernel.processes() {
            if !has_ended(&process) {
                continue;
            }
            match self.members.values_mut().find(|tracked| tracked.owns(&process)) {
                Some(tracked) => {
                    info!(member = tracked.label(), pid = process.pid, "member ended");
                    tracked.claim(process);
                    tracked.end(&mut self.kernel);
                }
                None => self.unclaimed += reconciled(&self.kernel, process.target),
            }
            if let Err(error) = self.kernel.release(process.target) {
                warn!(pid = process.pid, %error, "a process that ended keeps its place");
            }
        }
        // Those that never made a call which the kernel side knows.
        for tracked in self.members.values_mut() {
            if tracked.id().is_some_and(|id| !id.is_alive()) {
                tracked.end(&mut self.kernel);
            }
        }
    }
}

/// Returns how many events of a target etcd would have counted.
fn reconciled(kernel: &Kernel, target: u32) -> u64 {
    kernel.latencies(target, WAL_FSYNC).count() + kernel.latencies(target, BACKEND_COMMIT).count()
}

/// Returns whether both are one life of one process; `/proc` tells its start in ticks.
fn is_same(process: &Process, id: ProcessId) -> bool {
    process.pid == id.pid && process.started_ns / NS_PER_TICK == id.start_ticks
}

/// Returns whether a process is over, all its threads included; a dead one may await its parent as a zombie.
fn has_ended(process: &Process) -> bool {
    !ProcessId { pid: process.pid, start_ticks: process.started_ns / NS_PER_TICK }.is_alive()
}
