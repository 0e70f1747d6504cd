//! The probe agrees with real etcd processes, event by event: under load, across rotations, snapshots and
//! defragmentation, and across restarts of either. It disagrees when it is built to count wrong.

#![expect(clippy::float_cmp, reason = "counts are whole numbers, which floats hold exactly")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::maps::HashMap;
use probe_ebpf::state::{ProcessKey, ThreadKey};
use probe_tests::etcd::certs::Mutual;
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::faults::attempts::{ATTEMPTS, attempts};
use probe_tests::faults::evidence::{Stopwatch, Ticker};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::process;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::crosscheck::{self, Crosscheck, Demand, Watch};
use probe_tests::probe::loaded_programs;
use probe_tests::probe::{self, Invocation, Probe};

const OFTEN: Duration = Duration::from_millis(200);

fn run_probe(scratch: &Scratch, arguments: &[&str]) -> Probe {
    let binary = probe::binary().unwrap();
    Invocation::new(&binary, scratch.path()).arguments(arguments).run().unwrap()
}

fn start_etcd(version: &str, name: &str, scratch: &Scratch, tls: &Mutual) -> Etcd {
    let member = Member::new(&etcd::find(version).unwrap(), name, scratch.path()).tls(tls);
    member.set("snapshot-count", "10000").start().unwrap()
}

/// Compares the probe's counts with etcd's own, read by the test itself. etcd commits once more after the
/// last put, so both are read until neither changes; a wrong count stays wrong.
fn assert_equal_to(etcd: &Etcd, probe: &Probe) -> [Crosscheck; 2] {
    let mut last = None;
    let equal = Cancel::default().wait_for(Duration::from_mins(1), || {
        let own = etcd.observations()?;
        let figures = crosscheck::settle(probe, etcd.name())?;
        let kernel = figures.each_ref().map(|figure| figure.kernel);
        last = Some((own, kernel));
        Ok((kernel == [own.wal_fsync, own.backend_commit].map(|count| count as f64)).then_some(figures))
    });
    println!("{}: etcd's own and the kernel's counts: {last:?}", etcd.name());
    equal.unwrap().unwrap_or_else(|| panic!("{}: the counts differ: {last:?}", etcd.name()))
}

#[test]
fn every_event_of_a_long_load_is_matched() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("exact").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let probe = run_probe(&scratch, &["--scrape-interval", "200ms"]);
    let members = [("3.4", "long-34"), ("3.5.16", "long-35")]
        .map(|(version, name)| start_etcd(version, name, &scratch, &tls));
    let watch = Watch::start(&probe, &["long-34", "long-35"], Demand::Exact, OFTEN);

    // 51,000 puts of 4 KiB each are three segments of 64 MB.
    let load = Load { amount: Amount::Puts(51_000), ..Load::default() };
    let loads = members.each_ref().map(|etcd| load.start(etcd.endpoint()));
    while loads.iter().any(|load| load.so_far().puts < 20_000) {
        thread::sleep(OFTEN);
    }
    for etcd in &members {
        etcd.compact().unwrap();
        etcd.defragment().unwrap();
    }
    let done = loads.map(|load| load.wait().unwrap());
    let readings = watch.stop().unwrap().readings;
    println!("{readings} readings during {done:?}");

    assert!(done.iter().map(|done| done.puts).sum::<u64>() >= 100_000, "{done:?}");
    assert!(readings >= 100, "only {readings} readings during the load");
    for etcd in &members {
        assert!(etcd.rotations().unwrap() >= 3, "{}: the WAL was rotated", etcd.name());
        assert!(etcd.snapshots().unwrap() >= 1, "{}: a snapshot was taken", etcd.name());
        assert_equal_to(etcd, &probe);
        let metrics = probe.metrics().unwrap();
        let member = [("member", etcd.name())];
        let rotations = metrics.expect("etcd_disk_probe_wal_rotation_duration_seconds_count", &member);
        assert_eq!(rotations, etcd.rotations().unwrap() as f64, "{}: every rotation is timed", etcd.name());
        let count = |file| {
            let labels = [member[0], ("file", file)];
            metrics.sum("etcd_disk_probe_operation_duration_seconds_count", &labels)
        };
        assert!(count("snapshot") > 0.0 && count("defrag") > 0.0, "{}: both were recorded", etcd.name());
    }
    assert_nothing_missed(&probe);
}

/// The probe misses nothing that etcd does to its data. Four reasons are excluded: `unknown_file`, because
/// etcd's logger (zap) syncs its standard error; `unclaimed_process`, because the etcd processes of other
/// tests end too; `requests_full` and `owners_full`, which belong to the disk, not to etcd, and depend on the
/// requests that other processes have in flight there.
fn assert_nothing_missed(probe: &Probe) {
    let metrics = probe.metrics().unwrap();
    for reason in metrics.label_values("etcd_disk_probe_misses_total", "reason") {
        let misses = metrics.expect("etcd_disk_probe_misses_total", &[("reason", &reason)]);
        assert!(
            misses == 0.0
                || ["unknown_file", "unclaimed_process", "requests_full", "owners_full"]
                    .contains(&reason.as_str()),
            "{misses} misses of {reason}"
        );
    }
}

#[test]
fn a_probe_that_counts_wrong_is_detected() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    for (fault, sign) in [("drop", 1.0), ("double", -1.0)] {
        let scratch = Scratch::on_disk("faulty").unwrap();
        let tls = Mutual::create(scratch.path()).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_faulty-probe"));
        let call = Invocation::new(binary, scratch.path()).environment("FAULT", fault);
        let probe = call.arguments(&["--scrape-interval", "200ms", "--window", "10s"]).run().unwrap();
        let name = format!("faulty-{fault}");
        let etcd = start_etcd("3.5.16", &name, &scratch, &tls);
        // One connection causes one sync per put.
        let load = Load { amount: Amount::Puts(3_500), connections: 1, value_bytes: 100, ..Load::default() };
        load.start(etcd.endpoint()).wait().unwrap();
        // The scrapes and readings after the load show all of the difference.
        let verdict = [("member", name.as_str()), ("verdict", "blind")];
        let mut last = None;
        let detected = Cancel::default().wait_for(Duration::from_mins(1), || {
            let metrics = probe.metrics()?;
            let figures = crosscheck::of(&metrics, &name);
            let is_blind = metrics.value("etcd_disk_probe_verdict", &verdict) == Some(1.0);
            let is_shown = figures.as_ref().is_some_and(|[wal, _]| {
                is_blind && wal.difference * sign >= 2.0 && wal.sandwich >= 1.0 && !probe.is_ready()
            });
            last.clone_from(&figures);
            Ok(is_shown.then_some(()))
        });
        println!("{fault}: {last:?}");
        assert!(detected.unwrap().is_some(), "{fault}: it is not detected: {last:?}");
        let [wal, _] = last.unwrap();
        assert!(wal.difference * sign >= 2.0, "{fault}: every thousandth of 3,500 shows: {wal:?}");
        assert!(wal.sandwich >= 1.0, "{fault}: {wal:?}");
        assert!(!probe.is_ready(), "{fault}: a probe that disagrees is not ready");
        // One more event does not hide the fault.
        Load { amount: Amount::Puts(300), ..load }.start(etcd.endpoint()).wait().unwrap();
        let [later, _] = crosscheck::of(&probe.metrics().unwrap(), &name).unwrap();
        assert!(later.difference * sign >= wal.difference * sign, "{fault}: {later:?}");
    }
}

#[test]
fn an_etcd_found_later_is_reconciled_once_idle() {
    requirements::require(&[Need::Root, Need::Etcd("3.4")]);
    let scratch = Scratch::on_disk("midlife").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let etcd = start_etcd("3.4", "midlife", &scratch, &tls);
    let (probe, figures) = attempts("an_etcd_found_later_is_reconciled_once_idle", ATTEMPTS, |_| {
        let load = Load::default().start(etcd.endpoint());
        while load.so_far().puts < 2_000 {
            thread::sleep(OFTEN);
        }
        let probe = run_probe(&scratch, &["--scrape-interval", "400ms"]);
        thread::sleep(Duration::from_secs(5));
        load.stop().unwrap();
        let ticker = Ticker::start();
        // Two idle seconds, and the time for a scrape and a reading of it.
        thread::sleep(Duration::from_millis(2_500));
        let figures = crosscheck::of(&probe.metrics().unwrap(), "midlife").expect("the member is known");
        ticker.stop().small().judge((probe, figures))
    });
    assert!(figures.iter().all(Crosscheck::is_exact), "pinned within two idle seconds: {figures:#?}");

    let watch = Watch::start(&probe, &["midlife"], Demand::Exact, OFTEN);
    Load { amount: Amount::Puts(10_000), ..Load::default() }.start(etcd.endpoint()).wait().unwrap();
    assert!(watch.stop().unwrap().readings >= 5);
    crosscheck::settle(&probe, "midlife").unwrap();
}

#[test]
fn ten_kills_under_load_lose_nothing() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("deaths").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let probe = run_probe(&scratch, &["--scrape-interval", "200ms"]);
    let mut etcd = start_etcd("3.5.16", "deaths", &scratch, &tls);
    let watch = Watch::start(&probe, &["deaths"], Demand::Exact, OFTEN);
    let load = Load { tolerant: true, value_bytes: 512, ..Load::default() }.start(etcd.endpoint());
    let mut puts = 0;
    for death in 0..10 {
        // Every incarnation runs long enough to be discovered and scraped, and is killed at a different
        // moment.
        thread::sleep(Duration::from_millis(2_000 + 137 * death));
        let worked = Cancel::default()
            .wait_for(Duration::from_mins(1), || Ok((load.so_far().puts > puts).then_some(())));
        etcd.kill9().unwrap();
        assert!(worked.unwrap().is_some(), "incarnation {death} did some work");
        puts = load.so_far().puts;
        etcd.restart().unwrap();
    }
    thread::sleep(Duration::from_secs(2));
    load.stop().unwrap();
    let figures = crosscheck::settle(&probe, "deaths").unwrap();
    println!("after ten deaths: {figures:#?}");
    assert!(watch.stop().unwrap().readings >= 50);
    assert!(figures[0].unverified > 0.0, "ten tails cannot all have been scraped: {figures:#?}");
    assert_nothing_missed(&probe);
    let living = living_etcds();
    let slots = entries::<ProcessKey>(&probe, "TARGET_BY_PROCESS");
    assert_eq!(
        slots,
        living.len() + 1,
        "one slot per running etcd, one for the self-test, none for exited ones"
    );
    let tasks = living.iter().map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap().count());
    let (threads, slots) = (tasks.sum(), entries::<ThreadKey>(&probe, "THREAD_BY_KEY"));
    assert!((1..=threads).contains(&slots), "{slots} slots for {threads} running threads");
}

/// Returns the number of entries in one of the probe's hash maps.
fn entries<K: aya::Pod>(probe: &Probe, map: &str) -> usize {
    let map: HashMap<_, K, u32> = loaded_programs::hash_map(probe.pid(), map).unwrap();
    map.keys().filter_map(Result::ok).count()
}

/// Returns all processes called etcd, including those outside the tests: the probe allocates a slot for each
/// that syncs a WAL.
fn living_etcds() -> Vec<u32> {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.filter(|pid: &u32| process::comm(*pid).as_deref() == Some("etcd")).collect()
}

#[test]
fn without_fsync_commits_still_reconcile() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("nofsync").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let probe = run_probe(&scratch, &["--scrape-interval", "200ms"]);
    for (version, name) in [("3.4", "nofsync-34"), ("3.5.16", "nofsync-35")] {
        let member = Member::new(&etcd::find(version).unwrap(), name, scratch.path()).tls(&tls);
        let etcd = member.set("unsafe-no-fsync", "true").start().unwrap();
        let watch = Watch::start(&probe, &[name], Demand::Exact, OFTEN);
        // Enough for a rotation, which syncs the directory even with this setting.
        Load { amount: Amount::Puts(17_000), ..Load::default() }.start(etcd.endpoint()).wait().unwrap();
        let figures = assert_equal_to(&etcd, &probe);
        watch.stop().unwrap();
        assert!(figures[0].kernel >= 3.0 && figures[1].kernel > 10.0, "{name}: {figures:#?}");
        let verdict = [("member", name), ("verdict", "fsync_disabled")];
        assert_eq!(probe.metrics().unwrap().expect("etcd_disk_probe_verdict", &verdict), 1.0, "{name}");
    }
}

#[test]
fn a_probe_killed_under_load_recovers_by_itself() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("recovers").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let etcd = start_etcd("3.5.16", "recovers", &scratch, &tls);
    let load = Load::default().start(etcd.endpoint());
    for _ in 0..2 {
        let probe = run_probe(&scratch, &["--scrape-interval", "200ms"]);
        thread::sleep(Duration::from_secs(2));
        probe.kill9().unwrap();
    }
    let probe = run_probe(&scratch, &["--scrape-interval", "200ms"]);
    thread::sleep(Duration::from_secs(2));
    load.stop().unwrap();
    let figures = crosscheck::settle(&probe, "recovers").unwrap();
    assert!(figures[0].kernel > 0.0, "{figures:#?}");
}

/// At most 28 MiB at its peak, 2 % of a core with one scrape per second, and ready within 5 s, on a machine
/// that also runs other tests.
#[test]
fn the_daemon_is_small_and_quick() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("small").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let etcd = start_etcd("3.5.16", "small", &scratch, &tls);
    let load = Load::default().start(etcd.endpoint());
    let starting = Stopwatch::start();
    let probe = run_probe(&scratch, &["--scrape-interval", "1s"]);
    let ready_after = starting.stop();
    let (before, seconds) = (process::cpu_time(probe.pid()).unwrap(), 20);
    for _ in 0..seconds {
        probe.metrics().unwrap();
        thread::sleep(Duration::from_secs(1));
    }
    let cpu = process::cpu_time(probe.pid()).unwrap().saturating_sub(before);
    load.stop().unwrap();
    let mib = process::peak_resident_bytes(probe.pid()).unwrap() as f64 / f64::from(1 << 20);
    let share = cpu.as_secs_f64() / f64::from(seconds);
    println!(
        "peak {mib:.1} MiB, {:.2} % of a core at a scrape a second, ready after {ready_after}",
        share * 100.0
    );
    assert!(mib < 28.0, "{mib:.1} MiB");
    assert!(share < 0.02, "{:.2} % of a core", share * 100.0);
    assert!(ready_after.when_idle() < Duration::from_secs(5), "{ready_after}");
}
