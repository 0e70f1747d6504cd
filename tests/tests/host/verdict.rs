//! Every culprit is named: each test causes one real fault with a real etcd under load, and the probe must
//! identify it.
//!
//! Each attempt states in numbers that its fault occurred and that nothing larger disturbed it, by timers of
//! its own: see [`probe_tests::faults::evidence`]. A disturbed attempt is repeated, a wrong verdict is not.
//!
//! All names begin with the same word, so that `cargo xtask test --only verdict_ --repeat 10` runs only
//! these.

mod examination;

use std::thread;
use std::time::{Duration, Instant};

use probe_tests::etcd::load::{Amount, Load};
use probe_tests::faults::attempts::{ATTEMPTS, attempts};
use probe_tests::faults::evidence::{self, Conditions, Limits, SyncTimer, Timers};
use probe_tests::faults::worker::Work;
use probe_tests::faults::{self, Culprit};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::cgroup::{Cgroup, Hierarchy};
use probe_tests::machine::process;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::probe::check_report::{self, Effect};
use probe_tests::probe::{self, loaded_programs};

use self::examination::{
    ATTACH_LIMIT, Examined, FAST_MS, GOOD_FLUSH, GOOD_WRITE, LOAD, Place, Quota, SETTLE, TIMER_PAUSE, WINDOW,
    expect, neighbourhood, require, slow_down, undisturbed, waits_for_the_disk, without_fault, worker,
};

#[test]
fn verdict_a_fast_disk_is_healthy() {
    require(&[&requirements::LOOP_EXT4]);
    let (report, limit) = attempts("verdict_a_fast_disk_is_healthy", ATTEMPTS, |attempt| {
        let (limits, load) = without_fault(attempt);
        let place = Place::make("verdict");
        let disk = place.fast_disk();
        let etcd = place.member("fast", disk.path()).start().unwrap();
        let Examined { report, evidence, .. } = place.examine_by(limits, load, &etcd, || ());
        evidence.healthy(limits).judge((report, limits.sync))
    });
    expect(&report, "fast", "healthy", Effect::Healthy(limit));
}

#[test]
fn verdict_memory_is_healthy() {
    require(&[]);
    let (report, limit) = attempts("verdict_memory_is_healthy", ATTEMPTS, |attempt| {
        let (limits, load) = without_fault(attempt);
        let place = Place::make("verdict");
        let etcd = place.member("memory", &place.at("")).start().unwrap();
        let Examined { report, evidence, .. } = place.examine_by(limits, load, &etcd, || ());
        evidence.healthy(limits).judge((report, limits.sync))
    });
    expect(&report, "memory", "healthy", Effect::Healthy(limit));
}

/// The disk for the cases with neighbours: without them it is healthy.
#[test]
fn verdict_a_good_disk_is_healthy() {
    require(&[&requirements::SLOW_EXT4]);
    let (report, limit) = attempts("verdict_a_good_disk_is_healthy", ATTEMPTS, |attempt| {
        let (limits, load) = without_fault(attempt);
        let place = Place::make("verdict");
        let disk = place.slow_disk();
        let etcd = place.member("good", disk.path()).start().unwrap();
        slow_down(&disk, GOOD_WRITE, GOOD_FLUSH);
        let before = disk.served();
        let Examined { report, evidence, .. } = place.examine_by(limits, load, &etcd, || ());
        let served = disk.served().since(&before);
        println!("good: {served:?}");
        evidence
            .healthy(limits)
            .at_most("ms per write of the disk", served.mean_write_ms(), 2.0)
            .at_most("ms per flush of the disk", served.mean_flush_ms(), 2.0)
            .judge((report, limits.sync))
    });
    expect(&report, "good", "healthy", Effect::Healthy(limit));
}

#[test]
fn verdict_a_limit_of_writes_is_named() {
    /// Writes per second.
    const LIMIT: u32 = 90;
    require(&[&requirements::LOOP_EXT4, &[Need::Cgroups(Hierarchy::Controller("blkio"))]]);
    let report = undisturbed("verdict_a_limit_of_writes_is_named", || {
        let place = Place::make("verdict");
        let disk = place.fast_disk();
        let group = Cgroup::create(Hierarchy::Controller("blkio"), "probe-throttled").unwrap();
        let etcd = place.member("throttled", disk.path()).in_groups(&[&group]).start().unwrap();
        let writes = || group.writes(disk.device()).unwrap();
        let Examined { report, evidence, fault: (since, before) } = place.examine(&etcd, || {
            group.limit_writes(disk.device(), LIMIT).unwrap();
            (Instant::now(), writes())
        });
        let rate = (writes() - before) as f64 / since.elapsed().as_secs_f64();
        group.limit_writes(disk.device(), 0).unwrap();
        evidence
            .slow_by_storage()
            .at_least("writes per second of the cgroup", rate, f64::from(LIMIT) / 2.0)
            .at_most("writes per second of the cgroup", rate, f64::from(LIMIT) * 1.2)
            .judge(report)
    });
    expect(&report, "throttled", "io_throttled", Effect::Slow);
}

#[test]
fn verdict_a_neighbour_on_the_disk_is_named() {
    require(&[&requirements::SLOW_EXT4, &[Need::Tool("fio", "fio")]]);
    let (report, name) = undisturbed("verdict_a_neighbour_on_the_disk_is_named", || {
        let place = Place::make("verdict");
        let disk = place.slow_disk();
        let file = faults::prepare_file(disk.path()).unwrap();
        let groups = neighbourhood("probe-neighbour");
        let etcd = place.member("disturbed", disk.path()).start().unwrap();
        slow_down(&disk, GOOD_WRITE, GOOD_FLUSH);
        let timer = SyncTimer::start(disk.path(), TIMER_PAUSE).unwrap();
        let Examined { report, evidence, fault: (mut fio, since, before) } = place.examine(&etcd, || {
            let groups: Vec<_> = groups.iter().collect();
            let fio = Culprit::start(faults::fio(&file, 24), &groups).unwrap();
            (fio, Instant::now(), disk.served())
        });
        fio.is_at_it().unwrap();
        let (elapsed, served) = (since.elapsed(), disk.served().since(&before));
        let writes = process::write_calls(fio.pid()).unwrap() as f64 / elapsed.as_secs_f64();
        println!("disturbed: {served:?}");
        let busy = (served.write_time + served.flush_time).as_secs_f64() / elapsed.as_secs_f64();
        waits_for_the_disk(evidence.slow(), timer)
            .at_least("writes per second of the neighbour", writes, 100.0)
            .at_least("busy share of the disk", busy, 0.5)
            .at_most("ms per write of the disk", served.mean_write_ms(), 5.0)
            .judge((report, groups[0].name()))
    });
    expect(&report, "disturbed", "noisy_neighbour", Effect::Slow);
    let member = report.member("disturbed").unwrap();
    let found = member.neighbours();
    assert!(found.first().is_some_and(|path| path.ends_with(&name)), "{name} is not the first of {found:?}");
}

#[test]
fn verdict_a_storm_in_the_journal_is_named() {
    require(&[&requirements::SLOW_EXT4]);
    let report = undisturbed("verdict_a_storm_in_the_journal_is_named", || {
        let place = Place::make("verdict");
        let disk = place.slow_disk();
        let groups = neighbourhood("probe-storm");
        let etcd = place.member("stormy", disk.path()).start().unwrap();
        slow_down(&disk, GOOD_WRITE, GOOD_FLUSH);
        let work = Work::Storm { directory: disk.path().join("storm"), threads: 64 };
        let timer = SyncTimer::start(disk.path(), TIMER_PAUSE).unwrap();
        let Examined { report, evidence, fault: (mut storm, since, before) } = place.examine(&etcd, || {
            let storm = worker(&work, &groups.iter().collect::<Vec<_>>());
            (storm, Instant::now(), disk.served())
        });
        storm.is_at_it().unwrap();
        let (elapsed, served) = (since.elapsed(), disk.served().since(&before));
        println!("stormy: {served:?}");
        waits_for_the_disk(evidence.slow(), timer)
            .at_least("flushes per second of the disk", served.flushes as f64 / elapsed.as_secs_f64(), 50.0)
            .at_most("ms per write of the disk", served.mean_write_ms(), 5.0)
            .judge(report)
    });
    expect(&report, "stormy", "journal_contention", Effect::Slow);
}

#[test]
fn verdict_a_limit_of_cpu_time_is_named() {
    require(&[&requirements::LOOP_EXT4, &[Need::Cgroups(Hierarchy::Controller("cpu"))]]);
    let report = attempts("verdict_a_limit_of_cpu_time_is_named", ATTEMPTS, |attempt| {
        let place = Place::for_attempt(attempt, "verdict");
        let disk = place.fast_disk();
        let group = Cgroup::create(Hierarchy::Controller("cpu"), "probe-quota").unwrap();
        let etcd = place.member("quota", disk.path()).in_groups(&[&group]).start().unwrap();
        let timer = SyncTimer::start(disk.path(), TIMER_PAUSE).unwrap();
        // So little that it is exhausted within any dozen syncs: a limit that affects one sync in a hundred
        // does not change the p99.
        let Examined { report, evidence, fault } = place.examine(&etcd, || Quota::begin(&group, 4));
        let effect = fault.end();
        evidence
            .slow()
            .at_least("throttled periods", effect.periods as f64, 20.0)
            .at_least("throttled seconds", effect.time.as_secs_f64(), 1.0)
            .at_most(
                "median ms of a sync outside the cgroup",
                evidence::median_ms(&timer.stop().unwrap()),
                FAST_MS,
            )
            .judge(report)
    });
    expect(&report, "quota", "cpu_starved", Effect::Slow);
}

#[test]
fn verdict_others_on_the_cpu_are_named() {
    require(&[&requirements::LOOP_EXT4, &[Need::Cgroups(Hierarchy::Controller("cpu"))]]);
    let report = attempts("verdict_others_on_the_cpu_are_named", ATTEMPTS, |attempt| {
        let place = Place::for_attempt(attempt, "verdict");
        let disk = place.fast_disk();
        // One cgroup for all, so that only priority decides.
        let group = Cgroup::create(Hierarchy::Controller("cpu"), "probe-crowded").unwrap();
        let etcd = place.member("crowded", disk.path()).in_groups(&[&group]).start().unwrap();
        faults::pin(etcd.pid(), 1).unwrap();
        let timer = SyncTimer::start(disk.path(), TIMER_PAUSE).unwrap();
        let Examined { report, evidence, fault: (spinning, since) } = place.examine(&etcd, || {
            let spinning = worker(&Work::Spin { nice: -20 }, &[&group]);
            faults::pin(spinning.pid(), 1).unwrap();
            (spinning, Instant::now())
        });
        let spun = process::cpu_time(spinning.pid()).unwrap().as_secs_f64() / since.elapsed().as_secs_f64();
        evidence
            .slow()
            .at_least("share of the CPU of the other process", spun, 0.2)
            .at_least("run-queue delay in seconds", evidence.run_queue.as_secs_f64(), 1.0)
            .at_most(
                "median ms of a sync on another CPU",
                evidence::median_ms(&timer.stop().unwrap()),
                FAST_MS,
            )
            .judge(report)
    });
    expect(&report, "crowded", "cpu_starved", Effect::Slow);
}

#[test]
fn verdict_a_frozen_file_system_stalls_until_it_thaws() {
    require(&[&requirements::LOOP_EXT4]);
    let (during, after) = undisturbed("verdict_a_frozen_file_system_stalls_until_it_thaws", || {
        let place = Place::make("verdict");
        let disk = place.fast_disk();
        let etcd = place.member("frozen", disk.path()).start().unwrap();
        let load = LOAD.start(etcd.endpoint());
        thread::sleep(SETTLE);
        let timer = SyncTimer::start(disk.path(), TIMER_PAUSE).unwrap();
        // The probe has not seen the start of an operation that hangs already when it attaches.
        let window = Duration::from_secs(3);
        let check = check_report::start(&probe::binary().unwrap(), place.memory.path(), window, &[]).unwrap();
        let attached = Cancel::default()
            .wait_for(ATTACH_LIMIT, || Ok((!loaded_programs::of(check.pid()).is_empty()).then_some(())));
        assert!(attached.unwrap().is_some(), "it attaches: {}", check.tail());
        thread::sleep(Duration::from_millis(800));
        let frozen = disk.freeze().unwrap();
        let since = Instant::now();
        let during = check_report::finish(check, window).unwrap();
        let ended = Instant::now();
        drop(frozen);
        let after = place.check(window, &[]);
        let syncs = timer.stop().unwrap();
        load.stop().unwrap();
        // A sync that was in progress within a timer's pause of the freeze.
        let blocked = syncs.iter().any(|sync| sync.spans(since + 2 * TIMER_PAUSE, ended));
        let late: Vec<_> = syncs.into_iter().filter(|sync| sync.started > ended).collect();
        let longest = late.iter().map(|sync| sync.took.as_secs_f64()).fold(0.0, f64::max);
        Conditions::default()
            .at_least("seconds from the freeze to the end of check", (ended - since).as_secs_f64(), 1.8)
            .at_least("syncs of the test's own that it blocked", f64::from(u8::from(blocked)), 1.0)
            .at_least("syncs of the test's own after the thaw", late.len() as f64, 5.0)
            .at_most("seconds of the longest of them", longest, 0.5)
            .judge((during, after))
    });
    expect(&during, "frozen", "stalled", Effect::Any);
    let summary = after.member("frozen").unwrap().summary();
    println!("frozen: thawed: {summary}");
    assert_ne!(after.member("frozen").unwrap().verdict(), "stalled", "{summary}");
}

#[test]
fn verdict_an_etcd_that_does_not_sync_is_named() {
    require(&[]);
    let report = undisturbed("verdict_an_etcd_that_does_not_sync_is_named", || {
        let place = Place::make("verdict");
        let member = place.member("unsafe", &place.at("")).set("unsafe-no-fsync", "true");
        let etcd = member.start().unwrap();
        let Examined { report, evidence, .. } = place.examine(&etcd, || ());
        // etcd commits its database every 100 ms while there are puts.
        Conditions::default().at_least("commits", evidence.commits.count, 10.0).judge(report)
    });
    expect(&report, "unsafe", "fsync_disabled", Effect::Any);
}

#[test]
fn verdict_the_endpoint_of_another_is_named() {
    require(&[]);
    let report = undisturbed("verdict_the_endpoint_of_another_is_named", || {
        let place = Place::make("verdict");
        let [mine, other] = ["mine", "other"].map(|name| place.member(name, &place.at("")).start().unwrap());
        let loads = [&mine, &other].map(|etcd| LOAD.start(etcd.endpoint()));
        let timers = [&mine, &other].map(|etcd| Timers::start(etcd).unwrap());
        let report = place.check(Duration::from_secs(4), &["--endpoints", &other.endpoint().url()]);
        let syncs = timers.map(|timers| timers.stop().unwrap().wal_syncs.count);
        for load in loads {
            load.stop().unwrap();
        }
        Conditions::default()
            .at_least("WAL syncs of the one", syncs[0], 100.0)
            .at_least("WAL syncs of the other", syncs[1], 100.0)
            .judge(report)
    });
    // The code is the worse of both.
    expect(&report, "mine", "endpoint_mismatch", Effect::Any);
}

#[test]
fn verdict_a_few_syncs_are_too_few() {
    require(&[]);
    let report = undisturbed("verdict_a_few_syncs_are_too_few", || {
        let place = Place::make("verdict");
        let etcd = place.member("idle", &place.at("")).start().unwrap();
        let timers = Timers::start(&etcd).unwrap();
        let report = thread::scope(|scope| {
            let report = scope.spawn(|| place.check(WINDOW, &[]));
            thread::sleep(Duration::from_secs(2));
            Load { amount: Amount::Puts(3), ..LOAD }.start(etcd.endpoint()).wait().unwrap();
            report.join().unwrap()
        });
        let evidence = timers.stop().unwrap();
        println!("idle: {evidence}");
        // Five slow events would make a member slow.
        let slow = evidence.slow_by(Limits::GUIDANCE);
        Conditions::default()
            .at_least("WAL syncs", evidence.wal_syncs.count, 1.0)
            .at_most("WAL syncs", evidence.wal_syncs.count, 50.0)
            .at_most("slow events", slow, 4.0)
            .judge(report)
    });
    expect(&report, "idle", "too_few_samples", Effect::Any);
}

#[test]
fn verdict_a_slow_disk_is_named() {
    require(&[&requirements::SLOW_EXT4]);
    let report = undisturbed("verdict_a_slow_disk_is_named", || {
        let place = Place::make("verdict");
        let disk = place.slow_disk();
        let etcd = place.member("slow", disk.path()).start().unwrap();
        slow_down(&disk, Duration::from_millis(15), Duration::from_micros(100));
        let Examined { report, evidence, fault } = place.examine(&etcd, || disk.served());
        let served = disk.served().since(&fault);
        println!("slow: {served:?}");
        evidence
            .slow_by_storage()
            .at_least("writes of the disk", served.writes as f64, 60.0)
            .at_least("ms per write of the disk", served.mean_write_ms(), 15.0)
            .at_most("ms per flush of the disk", served.mean_flush_ms(), 5.0)
            .judge(report)
    });
    expect(&report, "slow", "device_slow", Effect::Slow);
}

#[test]
fn verdict_slow_flushes_are_named() {
    require(&[&requirements::SLOW_EXT4]);
    let report = undisturbed("verdict_slow_flushes_are_named", || {
        let place = Place::make("verdict");
        let disk = place.slow_disk();
        let etcd = place.member("flushing", disk.path()).start().unwrap();
        slow_down(&disk, Duration::from_micros(100), Duration::from_millis(20));
        let Examined { report, evidence, fault } = place.examine(&etcd, || disk.served());
        let served = disk.served().since(&fault);
        println!("flushing: {served:?}");
        evidence
            .slow_by_storage()
            .at_least("flushes of the disk", served.flushes as f64, 60.0)
            .at_least("ms per flush of the disk", served.mean_flush_ms(), 20.0)
            .at_most("ms per write of the disk", served.mean_write_ms(), 3.0)
            .judge(report)
    });
    expect(&report, "flushing", "flush_slow", Effect::Slow);
}

/// Which fault takes more time depends on the machine, whose speed affects both disk and etcd; etcd's own
/// figures decide.
#[test]
fn verdict_of_two_faults_the_larger_comes_first() {
    require(&[&requirements::SLOW_EXT4, &[Need::Cgroups(Hierarchy::Controller("cpu"))]]);
    let report = attempts("verdict_of_two_faults_the_larger_comes_first", ATTEMPTS, |attempt| {
        let place = Place::for_attempt(attempt, "verdict");
        let disk = place.slow_disk();
        let group = Cgroup::create(Hierarchy::Controller("cpu"), "probe-both").unwrap();
        let etcd = place.member("both", disk.path()).in_groups(&[&group]).start().unwrap();
        slow_down(&disk, Duration::from_millis(20), Duration::from_micros(100));
        // So many puts between two syncs that etcd needs more than its share of the CPU.
        let many = Load { connections: 256, ..LOAD };
        let Examined { report, evidence, fault: (quota, before) } =
            place.examine_by(Limits::GUIDANCE, many, &etcd, || (Quota::begin(&group, 5), disk.served()));
        let (effect, served) = (quota.end(), disk.served().since(&before));
        println!("both: {served:?}");
        evidence
            .slow()
            .at_least("throttled periods", effect.periods as f64, 20.0)
            .at_least("throttled seconds", effect.time.as_secs_f64(), 1.0)
            .at_least("writes of the disk", served.writes as f64, 30.0)
            .at_least("ms per write of the disk", served.mean_write_ms(), 20.0)
            .judge(report)
    });
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
    let faults = [
        ("slow writes", Duration::from_millis(15), Duration::from_micros(100)),
        ("slow flushes", Duration::from_micros(100), Duration::from_millis(20)),
    ];
    for (fault, write, flush) in faults {
        let (report, late) = undisturbed("samples_agree_with_the_scheduler", || {
            let place = Place::make("verdict");
            let disk = place.slow_disk();
            let etcd = place.member("sampled", disk.path()).start().unwrap();
            slow_down(&disk, write, flush);
            let load = LOAD.start(etcd.endpoint());
            thread::sleep(SETTLE);
            let timers = Timers::start(&etcd).unwrap();
            let report = place.check(WINDOW, &["--causes", "exact"]);
            let evidence = timers.stop().unwrap().of_window(WINDOW);
            println!("sampled: {:?}; {evidence}", load.stop().unwrap());
            evidence
                .slow()
                .at_least("seconds of WAL syncs", evidence.wal_syncs.sum_s, 2.0)
                .at_most("late share of a timer of 5 ms", evidence.lateness.share, 0.2)
                .judge((report, evidence.lateness.share))
        });
        let member = report.member("sampled").unwrap();
        let (off, total_s) = member.disagreement().unwrap();
        println!("{fault}: {:.1} % of {total_s:.2} s are laid elsewhere; {}", off * 100.0, member.summary());
        assert!(total_s > 1.0, "{fault} has no effect: {}", member.summary());
        // A sample is 5 ms: if a timer of 5 ms is late, so are the samples.
        assert!(off <= 0.05 + late, "{fault}: {:.1} % of {total_s:.2} s: {}", off * 100.0, member.summary());
    }
}
