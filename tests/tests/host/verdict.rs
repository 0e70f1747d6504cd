//! Every culprit is named: each test causes one real fault with a real etcd under load, and the probe must
//! identify it.
//!
//! All names begin with the same word, so that `cargo xtask test --only verdict_ --repeat 10` runs only
//! these.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::faults::worker::Work;
use probe_tests::faults::{self, Culprit};
use probe_tests::machine::cgroup::{Cgroup, Hierarchy};
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Format, LoopFs, Scratch, SlowFs, Tmpfs};
use probe_tests::probe;
use probe_tests::probe::check_report::{self, CheckReport, Effect};

const ETCD: &str = "3.5.16";

/// The duration of `check` for each fault.
const WINDOW: Duration = Duration::from_secs(8);

/// How long load and fault last before `check` starts.
const SETTLE: Duration = Duration::from_millis(500);

/// Two WAL segments take 128 MiB.
const DISK_MIB: u32 = 320;

/// The latency of an adequate disk: a WAL sync takes two writes and often two flushes, plus the journal's.
const GOOD_WRITE: Duration = Duration::from_micros(300);
const GOOD_FLUSH: Duration = Duration::from_micros(500);

/// The period of both limits of CPU time.
const PERIOD_US: u32 = 100_000;

/// Syncs one by one.
const LOAD: Load =
    Load { amount: Amount::UntilStopped, connections: 1, value_bytes: 512, keys: 100, tolerant: true };

/// The directory of a test's files: in memory, so that only the disk under test can be slow.
struct Place {
    memory: Tmpfs,
    _scratch: Scratch,
}

impl Place {
    fn make(name: &str) -> Self {
        let scratch = Scratch::on_disk(name).unwrap();
        Self { memory: Tmpfs::mount(&scratch.path().join("memory"), 1024).unwrap(), _scratch: scratch }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    /// Returns a fast disk.
    fn fast_disk(&self) -> LoopFs {
        LoopFs::create(&self.at("disk"), Format::Ext4, DISK_MIB).unwrap()
    }

    /// Returns a disk that can be slowed down.
    fn slow_disk(&self) -> SlowFs {
        SlowFs::create(&self.at("disk"), DISK_MIB).unwrap()
    }

    /// Returns an etcd with its data in `data`; its log and the probe's output are elsewhere.
    fn member(&self, name: &str, data: &Path) -> Member {
        let member = Member::new(&etcd::find(ETCD).unwrap(), name, self.memory.path());
        member.data_dir(&data.join(format!("{name}.data")))
    }

    fn check(&self, window: Duration, arguments: &[&str]) -> CheckReport {
        check_report::check(&probe::binary().unwrap(), self.memory.path(), window, arguments).unwrap()
    }

    /// Puts load on an etcd, makes the fault, and runs `check` while it lasts.
    fn examine<F>(&self, etcd: &Etcd, fault: impl FnOnce() -> F) -> CheckReport {
        self.examine_under(LOAD, etcd, fault)
    }

    fn examine_under<F>(&self, load: Load, etcd: &Etcd, fault: impl FnOnce() -> F) -> CheckReport {
        let load = load.start(etcd.endpoint());
        thread::sleep(SETTLE);
        let fault = fault();
        thread::sleep(SETTLE);
        let report = self.check(WINDOW, &[]);
        drop(fault);
        println!("{}: {:?}", etcd.name(), load.stop().unwrap());
        report
    }
}

/// Prints the summary of the member, and fails unless it names this fault.
fn expect(report: &CheckReport, name: &str, verdict: &str, effect: Effect) {
    let member = report.member(name).unwrap();
    println!("{name}: {}", member.summary());
    if let Err(error) = member.expect(verdict, effect) {
        panic!("{name}: {error:#}");
    }
}

fn require(more: &[&[Need]]) {
    let always = [Need::Root, Need::Bpf, Need::Etcd(ETCD)];
    requirements::require(&[&always[..], &more.concat()].concat());
}

/// Sets both latencies of a disk.
fn slow_down(disk: &SlowFs, write: Duration, flush: Duration) {
    disk.write_delay(write);
    disk.flush_delay(flush);
}

/// Creates a cgroup for a neighbour in each hierarchy that the kernel may use to attribute its requests.
fn neighbourhood(name: &str) -> Vec<Cgroup> {
    let hierarchies = [Hierarchy::Controller("blkio"), Hierarchy::Controller("cpu"), Hierarchy::Unified];
    let there = hierarchies.into_iter().filter(|hierarchy| hierarchy.root().is_ok());
    let name = format!("{name}-{}", std::process::id());
    there.map(|hierarchy| Cgroup::named(hierarchy, &name).unwrap()).collect()
}

fn worker(work: &Work, groups: &[&Cgroup]) -> Culprit {
    Culprit::start(work.command(Path::new(env!("CARGO_BIN_EXE_worker"))), groups).unwrap()
}

/// Limits a cgroup to this share of one CPU.
fn limit_cpu(group: &Cgroup, percent: u32) {
    group.set("cpu.cfs_period_us", &PERIOD_US.to_string()).unwrap();
    group.set("cpu.cfs_quota_us", &(PERIOD_US / 100 * percent).to_string()).unwrap();
}

#[test]
fn verdict_a_fast_disk_is_healthy() {
    require(&[&requirements::LOOP_EXT4]);
    let place = Place::make("verdict");
    let disk = place.fast_disk();
    let etcd = place.member("fast", disk.path()).start().unwrap();
    let report = place.examine(&etcd, || ());
    expect(&report, "fast", "healthy", Effect::Healthy);
}

#[test]
fn verdict_memory_is_healthy() {
    require(&[]);
    let place = Place::make("verdict");
    let etcd = place.member("memory", &place.at("")).start().unwrap();
    let report = place.examine(&etcd, || ());
    expect(&report, "memory", "healthy", Effect::Healthy);
}

/// The disk for the cases with neighbours: without them it is healthy.
#[test]
fn verdict_a_good_disk_is_healthy() {
    require(&[&requirements::SLOW_EXT4]);
    let place = Place::make("verdict");
    let disk = place.slow_disk();
    let etcd = place.member("good", disk.path()).start().unwrap();
    slow_down(&disk, GOOD_WRITE, GOOD_FLUSH);
    let before = disk.served();
    let report = place.examine(&etcd, || ());
    let after = disk.served();
    println!("good: {} writes, {} flushes", after.writes - before.writes, after.flushes - before.flushes);
    expect(&report, "good", "healthy", Effect::Healthy);
}

#[test]
fn verdict_a_limit_of_writes_is_named() {
    require(&[&requirements::LOOP_EXT4, &[Need::Cgroups(Hierarchy::Controller("blkio"))]]);
    let place = Place::make("verdict");
    let disk = place.fast_disk();
    let group = Cgroup::create(Hierarchy::Controller("blkio"), "probe-throttled").unwrap();
    let etcd = place.member("throttled", disk.path()).in_groups(&[&group]).start().unwrap();
    let limit = |writes: u32| group.limit_writes(disk.device(), writes).unwrap();
    let report = place.examine(&etcd, || limit(90));
    limit(0);
    expect(&report, "throttled", "io_throttled", Effect::Slow);
}

#[test]
fn verdict_a_neighbour_on_the_disk_is_named() {
    require(&[&requirements::SLOW_EXT4, &[Need::Tool("fio", "fio")]]);
    let place = Place::make("verdict");
    let disk = place.slow_disk();
    let file = faults::prepare_file(disk.path()).unwrap();
    let groups = neighbourhood("probe-neighbour");
    let etcd = place.member("disturbed", disk.path()).start().unwrap();
    slow_down(&disk, GOOD_WRITE, GOOD_FLUSH);
    let mut fio = None;
    let report = place.examine(&etcd, || {
        let groups: Vec<_> = groups.iter().collect();
        fio = Some(Culprit::start(faults::fio(&file, 24), &groups).unwrap());
    });
    fio.take().unwrap().is_at_it().unwrap();
    expect(&report, "disturbed", "noisy_neighbour", Effect::Slow);
    let member = report.member("disturbed").unwrap();
    let (found, name) = (member.neighbours(), groups[0].name());
    assert!(found.first().is_some_and(|path| path.ends_with(&name)), "{name} is not the first of {found:?}");
}

#[test]
fn verdict_a_storm_in_the_journal_is_named() {
    require(&[&requirements::SLOW_EXT4]);
    let place = Place::make("verdict");
    let disk = place.slow_disk();
    let groups = neighbourhood("probe-storm");
    let etcd = place.member("stormy", disk.path()).start().unwrap();
    slow_down(&disk, GOOD_WRITE, GOOD_FLUSH);
    let work = Work::Storm { directory: disk.path().join("storm"), threads: 64 };
    let mut storm = None;
    let report = place.examine(&etcd, || {
        storm = Some(worker(&work, &groups.iter().collect::<Vec<_>>()));
    });
    storm.take().unwrap().is_at_it().unwrap();
    expect(&report, "stormy", "journal_contention", Effect::Slow);
}

#[test]
fn verdict_a_limit_of_cpu_time_is_named() {
    require(&[&requirements::LOOP_EXT4, &[Need::Cgroups(Hierarchy::Controller("cpu"))]]);
    let place = Place::make("verdict");
    let disk = place.fast_disk();
    let group = Cgroup::create(Hierarchy::Controller("cpu"), "probe-quota").unwrap();
    let etcd = place.member("quota", disk.path()).in_groups(&[&group]).start().unwrap();
    // So little that it is exhausted within any dozen syncs: a limit that affects one sync in a hundred does
    // not change the p99.
    let report = place.examine(&etcd, || limit_cpu(&group, 4));
    group.set("cpu.cfs_quota_us", "-1").unwrap();
    expect(&report, "quota", "cpu_starved", Effect::Slow);
}

#[test]
fn verdict_others_on_the_cpu_are_named() {
    require(&[&requirements::LOOP_EXT4, &[Need::Cgroups(Hierarchy::Controller("cpu"))]]);
    let place = Place::make("verdict");
    let disk = place.fast_disk();
    // One cgroup for all, so that only priority decides.
    let group = Cgroup::create(Hierarchy::Controller("cpu"), "probe-crowded").unwrap();
    let etcd = place.member("crowded", disk.path()).in_groups(&[&group]).start().unwrap();
    faults::pin(etcd.pid(), 1).unwrap();
    let report = place.examine(&etcd, || {
        [(); 1].map(|()| {
            let spinning = worker(&Work::Spin { nice: -20 }, &[&group]);
            faults::pin(spinning.pid(), 1).unwrap();
            spinning
        })
    });
    expect(&report, "crowded", "cpu_starved", Effect::Slow);
}

#[test]
fn verdict_a_frozen_file_system_stalls_until_it_thaws() {
    require(&[&requirements::LOOP_EXT4]);
    let place = Place::make("verdict");
    let disk = place.fast_disk();
    let etcd = place.member("frozen", disk.path()).start().unwrap();
    let load = LOAD.start(etcd.endpoint());
    thread::sleep(SETTLE);
    thread::scope(|scope| {
        // The probe has not seen the start of an operation that hangs already when it attaches.
        let during = scope.spawn(|| place.check(Duration::from_secs(3), &[]));
        thread::sleep(Duration::from_millis(1200));
        let frozen = disk.freeze().unwrap();
        thread::sleep(Duration::from_secs(5));
        drop(frozen);
        expect(&during.join().unwrap(), "frozen", "stalled", Effect::Any);
    });
    let after = place.check(Duration::from_secs(3), &[]);
    load.stop().unwrap();
    let summary = after.member("frozen").unwrap().summary();
    println!("frozen: thawed: {summary}");
    assert_ne!(after.member("frozen").unwrap().verdict(), "stalled", "{summary}");
}

#[test]
fn verdict_an_etcd_that_does_not_sync_is_named() {
    require(&[]);
    let place = Place::make("verdict");
    let etcd = place.member("unsafe", &place.at("")).set("unsafe-no-fsync", "true").start().unwrap();
    let report = place.examine(&etcd, || ());
    expect(&report, "unsafe", "fsync_disabled", Effect::Any);
}

#[test]
fn verdict_the_endpoint_of_another_is_named() {
    require(&[]);
    let place = Place::make("verdict");
    let [mine, other] = ["mine", "other"].map(|name| place.member(name, &place.at("")).start().unwrap());
    let loads = [&mine, &other].map(|etcd| LOAD.start(etcd.endpoint()));
    let report = place.check(Duration::from_secs(4), &["--endpoints", &other.endpoint().url()]);
    for load in loads {
        load.stop().unwrap();
    }
    // The code is the worse of both.
    expect(&report, "mine", "endpoint_mismatch", Effect::Any);
}

#[test]
fn verdict_a_few_syncs_are_too_few() {
    require(&[]);
    let place = Place::make("verdict");
    let etcd = place.member("idle", &place.at("")).start().unwrap();
    let report = thread::scope(|scope| {
        let report = scope.spawn(|| place.check(WINDOW, &[]));
        thread::sleep(Duration::from_secs(2));
        Load { amount: Amount::Puts(3), ..LOAD }.start(etcd.endpoint()).wait().unwrap();
        report.join().unwrap()
    });
    expect(&report, "idle", "too_few_samples", Effect::Any);
}

#[test]
fn verdict_a_slow_disk_is_named() {
    require(&[&requirements::SLOW_EXT4]);
    let place = Place::make("verdict");
    let disk = place.slow_disk();
    let etcd = place.member("slow", disk.path()).start().unwrap();
    slow_down(&disk, Duration::from_millis(15), Duration::from_micros(100));
    let report = place.examine(&etcd, || ());
    expect(&report, "slow", "device_slow", Effect::Slow);
}

#[test]
fn verdict_slow_flushes_are_named() {
    require(&[&requirements::SLOW_EXT4]);
    let place = Place::make("verdict");
    let disk = place.slow_disk();
    let etcd = place.member("flushing", disk.path()).start().unwrap();
    slow_down(&disk, Duration::from_micros(100), Duration::from_millis(20));
    let report = place.examine(&etcd, || ());
    expect(&report, "flushing", "flush_slow", Effect::Slow);
}

/// Which fault takes more time depends on the machine, whose speed affects both disk and etcd; etcd's own
/// figures decide.
#[test]
fn verdict_of_two_faults_the_larger_comes_first() {
    require(&[&requirements::SLOW_EXT4, &[Need::Cgroups(Hierarchy::Controller("cpu"))]]);
    let place = Place::make("verdict");
    let disk = place.slow_disk();
    let group = Cgroup::create(Hierarchy::Controller("cpu"), "probe-both").unwrap();
    let etcd = place.member("both", disk.path()).in_groups(&[&group]).start().unwrap();
    slow_down(&disk, Duration::from_millis(20), Duration::from_micros(100));
    // So many puts between two syncs that etcd needs more than its share of the CPU.
    let many = Load { connections: 256, ..LOAD };
    let report = place.examine_under(many, &etcd, || limit_cpu(&group, 5));
    group.set("cpu.cfs_quota_us", "-1").unwrap();
    let member = report.member("both").unwrap();
    let (kernel_s, beyond_s) = member.kernel_and_beyond_s();
    let order =
        if kernel_s > beyond_s { ["device_slow", "cpu_starved"] } else { ["cpu_starved", "device_slow"] };
    println!("both: {kernel_s:.2} s in the kernel, {beyond_s:.2} s beyond it");
    // If they are about equal either may come first; the verdict must equal the first cause.
    let are_equal = (0.8..1.25).contains(&(kernel_s / beyond_s));
    let first = if are_equal { member.verdict() } else { order[0] };
    assert!(order.contains(&first), "{}", member.summary());
    expect(&report, "both", first, Effect::Slow);
    assert_eq!(member.causes().first(), Some(&first), "{}", member.summary());
    assert!(order.iter().all(|cause| member.causes().contains(cause)), "{}", member.summary());
}

/// Sampling costs nothing while etcd is fast; the scheduler hook verifies its accuracy.
#[test]
fn samples_agree_with_the_scheduler() {
    require(&[&requirements::SLOW_EXT4]);
    let place = Place::make("verdict");
    let disk = place.slow_disk();
    let etcd = place.member("sampled", disk.path()).start().unwrap();
    let load = LOAD.start(etcd.endpoint());
    let faults = [
        ("slow writes", Duration::from_millis(15), Duration::from_micros(100)),
        ("slow flushes", Duration::from_micros(100), Duration::from_millis(20)),
    ];
    for (fault, write, flush) in faults {
        slow_down(&disk, write, flush);
        let report = place.check(WINDOW, &["--causes", "exact"]);
        let member = report.member("sampled").unwrap();
        let (off, total_s) = member.disagreement().unwrap();
        println!("{fault}: {:.1} % of {total_s:.2} s are laid elsewhere; {}", off * 100.0, member.summary());
        assert!(total_s > 1.0, "{fault} has no effect: {}", member.summary());
        assert!(off <= 0.05, "{fault}: {:.1} % of {total_s:.2} s: {}", off * 100.0, member.summary());
    }
    load.stop().unwrap();
}
