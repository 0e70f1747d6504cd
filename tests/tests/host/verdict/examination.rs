//! What the cases of verdicts share: where their files are, the load, the limits, and one examination by
//! `check` together with the timers of the test.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::faults::Culprit;
use probe_tests::faults::attempts::{ATTEMPTS, Attempt, attempts};
use probe_tests::faults::evidence::{self, Conditions, Evidence, Lateness, Limits, SyncTimer, Timers};
use probe_tests::faults::worker::Work;
use probe_tests::machine::cgroup::{Cgroup, Hierarchy, Throttled};
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Format, LoopFs, Scratch, SlowFs, Tmpfs};
use probe_tests::probe;
use probe_tests::probe::check_report::{self, CheckReport, Effect};

pub const ETCD: &str = "3.5.16";

/// The duration of `check` for each fault.
pub const WINDOW: Duration = Duration::from_secs(8);

/// How long load and fault last before `check` starts.
pub const SETTLE: Duration = Duration::from_millis(500);

/// Two WAL segments take 128 MiB.
pub const DISK_MIB: u32 = 320;

/// The latency of an adequate disk: a WAL sync takes two writes and often two flushes, plus the journal's.
pub const GOOD_WRITE: Duration = Duration::from_micros(300);
pub const GOOD_FLUSH: Duration = Duration::from_micros(500);

/// The time limit for `check` to attach.
pub const ATTACH_LIMIT: Duration = Duration::from_mins(1);

/// The pause between two syncs of a test's own timer: it must not add to the load.
pub const TIMER_PAUSE: Duration = Duration::from_millis(100);

/// The longest median of these syncs on a fast disk, in milliseconds: half of etcd's limit.
pub const FAST_MS: f64 = 5.0;

/// The period of both limits of CPU time.
pub const PERIOD_US: u32 = 100_000;

/// Syncs one by one.
pub const LOAD: Load =
    Load { amount: Amount::UntilStopped, connections: 1, value_bytes: 512, keys: 100, tolerant: true };

/// Returns the limits and the load of the cases without a fault. In a repeated attempt the machine is busy:
/// the limits are higher, and there is a pause between two puts.
pub fn without_fault(attempt: u32) -> (Limits, Load) {
    if attempt == 1 {
        return (Limits::GUIDANCE, LOAD);
    }
    (Limits::BUSY, Load { amount: Amount::Paced(Duration::from_millis(5)), ..LOAD })
}

/// The directory of a test's files: in memory, so that only the disk under test can be slow.
pub struct Place {
    pub memory: Tmpfs,
    _scratch: Scratch,
    /// The duration of `check`.
    pub window: Duration,
}

impl Place {
    /// Makes the directory for an attempt at a case that has few syncs on a slow machine: a repeated one
    /// takes longer.
    pub fn for_attempt(attempt: u32, name: &str) -> Self {
        Self { window: WINDOW * attempt, ..Self::make(name) }
    }

    pub fn make(name: &str) -> Self {
        let scratch = Scratch::on_disk(name).unwrap();
        Self {
            memory: Tmpfs::mount(&scratch.path().join("memory"), 1024).unwrap(),
            _scratch: scratch,
            window: WINDOW,
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    /// Returns a fast disk.
    pub fn fast_disk(&self) -> LoopFs {
        LoopFs::create(&self.at("disk"), Format::Ext4, DISK_MIB).unwrap()
    }

    /// Returns a disk that can be slowed down.
    pub fn slow_disk(&self) -> SlowFs {
        SlowFs::create(&self.at("disk"), DISK_MIB).unwrap()
    }

    /// Returns an etcd with its data in `data`; its log and the probe's output are elsewhere.
    pub fn member(&self, name: &str, data: &Path) -> Member {
        let member = Member::new(&etcd::find(ETCD).unwrap(), name, self.memory.path());
        member.data_dir(&data.join(format!("{name}.data")))
    }

    pub fn check(&self, window: Duration, arguments: &[&str]) -> CheckReport {
        check_report::check(&probe::binary().unwrap(), self.memory.path(), window, arguments).unwrap()
    }

    /// Puts load on an etcd, makes the fault, and runs `check` while it lasts.
    pub fn examine<F>(&self, etcd: &Etcd, fault: impl FnOnce() -> F) -> Examined<F> {
        self.examine_by(Limits::GUIDANCE, LOAD, etcd, fault)
    }

    /// Does the same with these limits and this load.
    pub fn examine_by<F>(
        &self,
        limits: Limits,
        load: Load,
        etcd: &Etcd,
        fault: impl FnOnce() -> F,
    ) -> Examined<F> {
        let load = load.start(etcd.endpoint());
        thread::sleep(SETTLE);
        let fault = fault();
        thread::sleep(SETTLE);
        let timers = Timers::start(etcd).unwrap();
        let [sync, commit] = [limits.sync, limits.commit].map(|limit| format!("{}ms", limit.as_millis()));
        let limits = ["--wal-fsync-limit", &sync, "--backend-commit-limit", &commit];
        let report = self.check(self.window, &limits);
        let evidence = timers.stop().unwrap().of_window(self.window);
        println!("{}: {:?}; {evidence}", etcd.name(), load.stop().unwrap());
        let Lateness { share, worst, .. } = evidence.lateness;
        Examined { report: report.sampled_late(share, worst), evidence, fault }
    }
}

/// The report of `check`, what the test measured meanwhile, and the fault, which still lasts.
pub struct Examined<F> {
    pub report: CheckReport,
    pub evidence: Evidence,
    pub fault: F,
}

/// Repeats a disturbed attempt.
pub fn undisturbed<T>(name: &str, mut attempt: impl FnMut() -> Attempt<T>) -> T {
    attempts(name, ATTEMPTS, |_| attempt())
}

/// Adds the condition for a disk that others use, too: a thread of the test that syncs there waits for the
/// disk, not for a CPU.
pub fn waits_for_the_disk(conditions: Conditions, timer: SyncTimer) -> Conditions {
    let syncs = timer.stop().unwrap();
    conditions
        .at_least("syncs of the test's own", syncs.len() as f64, 10.0)
        .at_least("median ms of them", evidence::median_ms(&syncs), 5.0)
        .at_most("share of them in the run queue", evidence::run_queue_share(&syncs), 0.3)
}

/// Prints the summary of the member, and fails unless it names this fault.
pub fn expect(report: &CheckReport, name: &str, verdict: &str, effect: Effect) {
    let member = report.member(name).unwrap();
    println!("{name}: {}", member.summary());
    if let Err(error) = member.expect(verdict, effect) {
        panic!("{name}: {error:#}");
    }
}

pub fn require(more: &[&[Need]]) {
    let always = [Need::Root, Need::Bpf, Need::Etcd(ETCD)];
    requirements::require(&[&always[..], &more.concat()].concat());
}

/// Sets both latencies of a disk.
pub fn slow_down(disk: &SlowFs, write: Duration, flush: Duration) {
    disk.write_delay(write);
    disk.flush_delay(flush);
}

/// Creates a cgroup for a neighbour in each hierarchy that the kernel may use to attribute its requests.
pub fn neighbourhood(name: &str) -> Vec<Cgroup> {
    let hierarchies = [Hierarchy::Controller("blkio"), Hierarchy::Controller("cpu"), Hierarchy::Unified];
    let there = hierarchies.into_iter().filter(|hierarchy| hierarchy.root().is_ok());
    let name = format!("{name}-{}", std::process::id());
    there.map(|hierarchy| Cgroup::named(hierarchy, &name).unwrap()).collect()
}

pub fn worker(work: &Work, groups: &[&Cgroup]) -> Culprit {
    Culprit::start(work.command(Path::new(env!("CARGO_BIN_EXE_worker"))), groups).unwrap()
}

/// Limits a cgroup to this share of one CPU.
pub fn limit_cpu(group: &Cgroup, percent: u32) {
    group.set("cpu.cfs_period_us", &PERIOD_US.to_string()).unwrap();
    group.set("cpu.cfs_quota_us", &(PERIOD_US / 100 * percent).to_string()).unwrap();
}

/// How often and how long a limit of CPU time stops a cgroup, from now on.
pub struct Quota<'a> {
    group: &'a Cgroup,
    before: Throttled,
}

impl<'a> Quota<'a> {
    /// Limits it to this share of one CPU.
    pub fn begin(group: &'a Cgroup, percent: u32) -> Self {
        limit_cpu(group, percent);
        Self { group, before: group.throttled().unwrap() }
    }

    /// Removes the limit and returns its effect.
    pub fn end(self) -> Throttled {
        let effect = self.group.throttled().unwrap().since(&self.before);
        self.group.set("cpu.cfs_quota_us", "-1").unwrap();
        println!("{effect:?}");
        effect
    }
}
