//! The culprits that require a virtual machine: device mapper, cgroups of version 2, a disk with a short
//! queue.
//!
//! Everything here is emulated, so the loads are small: the CPU must not be the bottleneck.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{Etcd, Member};
use probe_tests::faults::evidence::{self, Evidence, SyncTimer, Timers};
use probe_tests::faults::worker::Work;
use probe_tests::faults::{self, Culprit};
use probe_tests::machine::cgroup::{Cgroup, Hierarchy};
use probe_tests::machine::process;
use probe_tests::machine::scratch::Scratch;
use probe_tests::machine::vm::case::{Case, FileSystem};
use probe_tests::machine::vm::{ETCD, PROBE};
use probe_tests::probe::check_report::{self, CheckReport, Effect};

use crate::disks::{self, Delays};
use crate::machine::{Machine, NARROW_DISK};
use crate::repeat::undisturbed;

const NAME: &str = "judged";

/// The duration of `check` for most faults.
const WINDOW: Duration = Duration::from_secs(8);

/// An etcd with a fifth of an emulated CPU syncs only a few times a second.
const STARVED_WINDOW: Duration = Duration::from_secs(25);

/// How long load and fault last before `check` starts.
const SETTLE: Duration = Duration::from_secs(1);

/// The run-queue delay of all threads of etcd for each second of its WAL syncs above which an attempt is
/// disturbed. On one emulated CPU the other threads wait in parallel: 0.6 to 1.5 was measured while the syncs
/// themselves waited for the disk.
const RUN_QUEUE_SHARE_MAX: f64 = 4.0;

/// The delay of a slow operation.
const SLOW: Duration = Duration::from_millis(40);

/// The pause between two syncs of the test's own timer on the slow disk, which must not add to the load.
const TIMER_PAUSE: Duration = Duration::from_secs(1);

/// The limit of writes per second.
const FEW_WRITES: u32 = 20;

/// The writes per second from which the narrow disk has no pause: half of what it can serve.
const CROWDED_WRITES: f64 = 100.0;

const LOAD: Load =
    Load { amount: Amount::UntilStopped, connections: 1, value_bytes: 128, keys: 10, tolerant: true };

/// The device of [`NARROW_DISK`].
const NARROW_DEVICE: &str = "vde";

/// Reads and writes are slow, flushes take no time.
pub fn device_slow(case: Case, machine: &Machine) -> anyhow::Result<String> {
    delayed(case, machine, Delays { io: SLOW, flush: Duration::ZERO }, "device_slow")
}

/// Flushes are slow, reads and writes take no time.
pub fn flush_slow(case: Case, machine: &Machine) -> anyhow::Result<String> {
    delayed(case, machine, Delays { io: Duration::ZERO, flush: SLOW }, "flush_slow")
}

fn delayed(case: Case, machine: &Machine, delays: Delays, verdict: &str) -> anyhow::Result<String> {
    let attempt = || {
        let place = Place::make(&[])?;
        let data = Scratch::new(disks::slow_disk(machine)?, "verdict")?;
        let etcd = place.start(data.path(), &[])?;
        let delayed = disks::delay(delays)?;
        let timer = SyncTimer::start(data.path(), TIMER_PAUSE)?;
        let (report, evidence) = place.examine(case, &etcd, || Ok(()))?;
        let syncs = timer.stop()?;
        drop(delayed);
        let conditions = evidence
            .slow()
            .at_least("syncs of the test's own", syncs.len() as f64, 4.0)
            .at_least("median ms of them", evidence::median_ms(&syncs), SLOW.as_secs_f64() * 1e3)
            .at_most("share of them in the run queue", evidence::run_queue_share(&syncs), 0.3);
        Ok(conditions.judge(report))
    };
    undisturbed(case, attempt, |report| report.member(NAME)?.expect(verdict, Effect::Slow))
}

/// A limit of writes per second, for etcd's cgroup alone.
pub fn io_throttled(case: Case, machine: &Machine) -> anyhow::Result<String> {
    let attempt = || {
        let place = Place::make(&["io", "memory"])?;
        let group = Cgroup::create(Hierarchy::Unified, "judged")?;
        let data = Scratch::new(&machine.disk(FileSystem::Ext4), "verdict")?;
        let etcd = place.start(data.path(), &[&group])?;
        let device = disks::numbers(disks::EXT4_DEVICE)?;
        let mut begin = (Instant::now(), 0);
        let (report, evidence) = place.examine(case, &etcd, || {
            group.set("io.max", &format!("{device} wiops={FEW_WRITES}"))?;
            begin = (Instant::now(), group.unified_writes(&device)?);
            Ok(())
        })?;
        let (since, before) = begin;
        let rate = (group.unified_writes(&device)? - before) as f64 / since.elapsed().as_secs_f64();
        group.set("io.max", &format!("{device} wiops=max"))?;
        let conditions = evidence
            .slow_by_storage_within(RUN_QUEUE_SHARE_MAX)
            .at_least("writes per second of the cgroup", rate, f64::from(FEW_WRITES) / 2.0)
            .at_most("writes per second of the cgroup", rate, f64::from(FEW_WRITES) * 1.2);
        Ok(conditions.judge(report))
    };
    undisturbed(case, attempt, |report| report.member(NAME)?.expect("io_throttled", Effect::Slow))
}

/// A fifth of a CPU: 20 ms, and nothing for the following 80 ms.
pub fn cpu_starved(case: Case, machine: &Machine) -> anyhow::Result<String> {
    let attempt = || {
        let place = Place { window: STARVED_WINDOW, ..Place::make(&["cpu"])? };
        let group = Cgroup::create(Hierarchy::Unified, "judged")?;
        let data = Scratch::new(&machine.disk(FileSystem::Ext4), "verdict")?;
        let etcd = place.start(data.path(), &[&group])?;
        let mut before = None;
        let (report, evidence) = place.examine(case, &etcd, || {
            group.set("cpu.max", "20000 100000")?;
            before = Some(group.throttled()?);
            Ok(())
        })?;
        let effect = group.throttled()?.since(&before.context("the limit was set")?);
        group.set("cpu.max", "max 100000")?;
        let conditions = evidence.slow().at_least("throttled periods", effect.periods as f64, 50.0).at_least(
            "throttled seconds",
            effect.time.as_secs_f64(),
            4.0,
        );
        Ok(conditions.judge(report))
    };
    undisturbed(case, attempt, |report| report.member(NAME)?.expect("cpu_starved", Effect::Slow))
}

/// A disk that accepts four requests at a time and 200 per second, and other processes that write to it
/// without a pause.
///
/// Both verdicts are correct. etcd's sync first waits for a free request in the queue (`blk_mq_get_tag`), and
/// then for the three that are in it already: the queue is saturated. The owner of those requests is known
/// too: another cgroup, without which the same disk serves etcd at once, so it is a noisy neighbour. Which of
/// the two waits is longer depends on how many other waiters the kernel wakes before etcd; the test accepts
/// either, if the neighbour is named.
pub fn queue_saturated(case: Case) -> anyhow::Result<String> {
    let attempt = || {
        let place = Place::make(&["io"])?;
        let group = Cgroup::create(Hierarchy::Unified, "crowd")?;
        let data = Scratch::new(Path::new(NARROW_DISK), "verdict")?;
        let file = faults::prepare_file(data.path())?;
        let etcd = place.start(data.path(), &[])?;
        let _queue = disks::Queue::shorten(NARROW_DEVICE)?;
        let work = Work::Write { file, threads: 8 };
        let mut crowd = None;
        let (report, evidence) = place.examine(case, &etcd, || {
            let writing = Culprit::start(work.command(Path::new("/proc/self/exe")), &[&group])?;
            crowd = Some((writing, Instant::now()));
            Ok(())
        })?;
        let (mut crowd, since) = crowd.context("the crowd was started")?;
        crowd.is_at_it()?;
        let rate = process::write_calls(crowd.pid())? as f64 / since.elapsed().as_secs_f64();
        let conditions = evidence.slow_by_storage_within(RUN_QUEUE_SHARE_MAX).at_least(
            "writes per second of the crowd",
            rate,
            CROWDED_WRITES,
        );
        Ok(conditions.judge((report, group.name())))
    };
    undisturbed(case, attempt, |(report, name)| {
        let member = report.member(NAME)?;
        let verdict =
            if member.verdict() == "noisy_neighbour" { "noisy_neighbour" } else { "queue_saturated" };
        let summary = member.expect(verdict, Effect::Slow)?;
        let neighbours = member.neighbours();
        let named = neighbours.first().is_some_and(|path| path.ends_with(&name));
        ensure!(named, "{name} is not the first of {neighbours:?}: {summary}");
        Ok(summary)
    })
}

/// The directory for files that must not be slow.
struct Place {
    scratch: Scratch,
    /// The duration of `check`.
    window: Duration,
}

impl Place {
    /// Creates it, and enables these controllers for cgroups.
    fn make(controllers: &[&str]) -> anyhow::Result<Self> {
        Cgroup::delegate(controllers)?;
        // In memory.
        Ok(Self { scratch: Scratch::new(Path::new("/tmp"), "verdict")?, window: WINDOW })
    }

    fn start(&self, data: &Path, groups: &[&Cgroup]) -> anyhow::Result<Etcd> {
        let member = Member::new(Path::new(ETCD), NAME, self.scratch.path());
        member.data_dir(&data.join("data")).in_groups(groups).start()
    }

    /// Puts load on an etcd, makes the fault and runs `check`.
    fn examine(
        &self,
        case: Case,
        etcd: &Etcd,
        fault: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<(CheckReport, Evidence)> {
        let load = LOAD.start(etcd.endpoint());
        thread::sleep(SETTLE);
        fault()?;
        thread::sleep(SETTLE);
        let arguments = ["--hook", case.hook.as_str()];
        let timers = Timers::start(etcd)?;
        let report = check_report::check(Path::new(PROBE), self.scratch.path(), self.window, &arguments)?;
        let evidence = timers.stop()?.of_window(self.window);
        println!("guest: {:?}; {evidence}", load.stop()?);
        Ok((report.sampled_late(evidence.lateness.share, evidence.lateness.worst), evidence))
    }
}
