//! Combines the kernel's counts, the members and etcd's own metrics, across restarts of each.
//!
//! [`Monitor`] is the state. `scan` finds members and retires ended ones; `scrape_round` scrapes etcd, and
//! `on_demand` does so when a client requests fresh values. `wait_totals` adds up the waits of slow
//! operations, `slow_log` keeps the last of them, and `window` keeps the period that a verdict covers.
//! `gather_evidence` and `device_evidence` derive a verdict's evidence, `assess` decides the verdict, and
//! `metrics_snapshot` collects the values of the metrics.

pub mod certificate_watch;
mod self_test_status;
pub mod on_demand;
mod retention;
pub mod wait_totals;
mod scrape_round;
mod slow_log;
pub mod environment;
mod member_state;
mod scan;
mod window;
mod device_evidence;
mod gather_evidence;
mod assess;
mod metrics_snapshot;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use environment::HostEnvironment;
pub use member_state::{LastScrape, MemberState};
pub use scrape_round::{is_from, scrape_all};
use self_test_status::SelfTestStatus;
pub use slow_log::SlowLog;
pub use window::Window;

use crate::{
    analysis::{
        reexport::{AllowList, OmittedSamples},
        thresholds::Thresholds,
    },
    discovery::{Overrides, Scanner},
    kernel::{
        Hook, Kernel,
        sampler::{self, CurrentWait, SharedResults},
    },
    system::netns_spawner::NetnsSpawner,
};

/// How long the result of a self-test is valid.
pub const SELF_TEST_INTERVAL: Duration = Duration::from_secs(5);

/// What identifies a member across restarts: etcd's name and its data directory.
pub type MemberKey = (String, PathBuf);

/// Which processes are members, how they are scraped, and the limits of their verdicts.
#[derive(Clone, Debug)]
pub struct MonitorSettings {
    pub process_names: Vec<String>,
    pub overrides: Overrides,
    pub command_timeout: Duration,
    pub netns_spawner: NetnsSpawner,
    pub window: Duration,
    pub thresholds: Thresholds,
    /// Which of etcd's own families are re-exported.
    pub allow_list: Arc<AllowList>,
}

/// The state of the probe.
pub struct Monitor {
    pub settings: MonitorSettings,
    kernel: Kernel,
    findings: SharedResults,
    slow_log: SlowLog,
    host: HostEnvironment,
    self_test: SelfTestStatus,
    scanner: Scanner,
    members: BTreeMap<MemberKey, MemberState>,
    /// Processes that could not be examined, so that each is reported once.
    unreadable: BTreeMap<u32, String>,
    unreadable_total: u64,
    unclaimed: u64,
    threads_released: Instant,
    /// The samples of etcd's own metrics that could not be re-exported, over all scrapes.
    omitted: OmittedSamples,
    /// Notified at the end of every scrape.
    scrape_ended: watch::Sender<()>,
}

/// The monitor as the tasks of the daemon share it.
pub type SharedMonitor = Arc<Mutex<Monitor>>;

/// Locks the monitor. No lock is held across an await. A panic of its holder is ignored: the counters stay
/// correct.
pub fn lock(shared: &SharedMonitor) -> MutexGuard<'_, Monitor> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor {
    /// Takes a kernel side that has just passed its self-test.
    pub fn new(kernel: Kernel, findings: SharedResults, settings: MonitorSettings) -> Self {
        Self {
            settings,
            kernel,
            findings,
            slow_log: SlowLog::default(),
            host: HostEnvironment::read(),
            self_test: SelfTestStatus::passed_now(),
            scanner: Scanner::default(),
            members: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            unreadable_total: 0,
            unclaimed: 0,
            threads_released: Instant::now(),
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

    /// Tests whether the programs receive events, if the last test is older than this.
    pub fn run_self_test(&mut self, max_age: Duration) {
        self.self_test.test(&mut self.kernel, max_age);
    }

    /// Returns why the last self-test failed, if it did.
    pub fn self_test_failure(&self) -> Option<&str> {
        self.self_test.failure()
    }

    /// Returns the last slow operations of all members.
    pub fn slow_log(&self) -> &SlowLog {
        &self.slow_log
    }

    /// Returns how many slow operations were dropped because they were not collected in time, and how many
    /// stacks could not be read.
    pub fn sampler_misses(&self) -> [(&'static str, u64); 2] {
        let findings = sampler::lock(&self.findings);
        [("slow_dropped", findings.dropped), ("stack_unreadable", findings.unreadable)]
    }

    /// Returns the present waits of a target's operations in flight.
    pub fn waiting(&self, target: u32) -> Vec<CurrentWait> {
        let findings = sampler::lock(&self.findings);
        findings.waiting.iter().filter(|waiting| waiting.target == target).cloned().collect()
    }

    /// Returns the path of a cgroup that block I/O is charged to, if it is known.
    pub fn cgroup(&self, id: u64) -> Option<String> {
        self.host.cgroup(id).map(str::to_owned)
    }

    /// Returns the host's devices and cgroups.
    pub fn host(&self) -> &HostEnvironment {
        &self.host
    }

    /// Moves the slow operations that the sampler has collected since the last call to their members.
    pub fn drain_sampler(&mut self) {
        let found: Vec<_> = sampler::lock(&self.findings).slow.drain(..).collect();
        if !found.is_empty() {
            // A member's first operation, which gives it its kernel slot, may be a slow one.
            self.members.values_mut().for_each(|member| member.find_process(&self.kernel));
        }
        for operation in found {
            let target = operation.record.target;
            let of_target =
                |member: &&mut MemberState| member.process().is_some_and(|process| process.target == target);
            // An operation of a process that is not known as a member yet is dropped: if the process is no
            // member, it would be kept forever.
            if let Some(member) = self.members.values_mut().find(of_target) {
                member.slow_mut().add(&operation);
                self.slow_log.push(member.label().to_owned(), operation);
            }
        }
    }
}
