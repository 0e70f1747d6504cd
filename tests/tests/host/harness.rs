//! The harness provides what the other tests rely on, with real etcd processes and without the probe.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use probe_tests::etcd::certs::{Authority, Mutual, Validity};
use probe_tests::etcd::load::{Amount, Done, Load};
use probe_tests::etcd::settings::ConfigSource;
use probe_tests::etcd::{self, Etcd, Member, Namespaces, Readiness};
use probe_tests::faults::evidence::Stopwatch;
use probe_tests::machine::http::{Endpoint, Response};
use probe_tests::machine::process;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Format, LoopFs, Scratch, SlowFs, Tmpfs};

/// One at a time: these tests check the mounts and loop devices of the whole machine.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn put(etcd: &Etcd, puts: u64) -> Done {
    Load { amount: Amount::Puts(puts), ..Load::default() }.start(etcd.endpoint()).wait().expect("load ends")
}

/// Returns the mounts below a path, and the loop devices whose images are there.
fn left_below(path: &Path) -> BTreeSet<String> {
    let path = path.to_str().expect("a path in UTF-8");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
    let mounts = mounts.lines().filter(|line| line.contains(path)).map(str::to_owned);
    let loops = fs::read_dir("/sys/block").expect("block devices can be listed").flatten();
    let images = loops.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    mounts.chain(images.filter(|image| image.contains(path))).collect()
}

#[test]
fn each_etcd_serves_loads_dies_and_restarts() {
    requirements::require(&[Need::Etcd("3.4"), Need::Etcd("3.5")]);
    let _alone = alone();
    for (version, given) in
        [("3.4", ConfigSource::Flags), ("3.5", ConfigSource::Environment), ("3.5", ConfigSource::File)]
    {
        let why = format!("etcd {version} by {given:?}");
        let scratch = Scratch::on_disk("harness").unwrap();
        let tls = Mutual::create(scratch.path()).unwrap();
        let member = Member::new(&etcd::find(version).unwrap(), "member", scratch.path());
        let mut etcd = member.tls(&tls).set("snapshot-count", "1000").config_source(given).start().unwrap();
        assert_eq!(process::comm(etcd.pid()).as_deref(), Some("etcd"), "{why}");
        let stranger = Endpoint::plain(etcd.endpoint().address()).get("/metrics").and_then(Response::text);
        assert!(stranger.is_err(), "{why}: no access without a certificate");

        let before = etcd.observations().unwrap();
        let done = put(&etcd, 2000);
        let after = etcd.observations().unwrap();
        println!("{why}: {:.0} puts/s", done.rate());
        assert_eq!((done.puts, done.failures), (2000, 0), "{why}");
        assert!(after.wal_fsync > before.wal_fsync + 100, "{why}: {before:?} {after:?}");
        assert!(after.backend_commit > before.backend_commit, "{why}: {before:?} {after:?}");
        assert!(etcd.snapshots().unwrap() >= 1, "{why}: 2,000 entries are two snapshots");
        etcd.compact().unwrap();
        etcd.defragment().unwrap();
        let defragmented = "etcd_disk_backend_defrag_duration_seconds_count";
        assert!(etcd.metrics().unwrap().expect(defragmented, &[]) >= 1.0, "{why}");

        let load = Load { tolerant: true, ..Load::default() }.start(etcd.endpoint());
        let dead = etcd.pid();
        etcd.kill9().unwrap();
        assert_eq!(process::comm(dead), None, "{why}: it is gone, and so is its pid");
        etcd.restart().unwrap();
        assert_ne!(etcd.pid(), dead, "{why}");
        let (puts, resumed) = (load.so_far().puts, Duration::from_mins(1));
        let went_on = probe_tests::machine::cancel::Cancel::default()
            .wait_for(resumed, || Ok((load.so_far().puts > puts + 100).then_some(())))
            .unwrap();
        let done = load.stop().unwrap();
        assert!(went_on.is_some() && done.failures > 0, "{why}: the load survives the death: {done:?}");

        let (pid, path) = (etcd.pid(), scratch.path().to_owned());
        drop((etcd, scratch));
        assert_eq!(process::comm(pid), None, "{why}: stopped on drop");
        assert!(!path.exists(), "{why}: removed on drop");
    }
}

#[test]
fn a_wal_rotates_and_may_live_on_another_file_system() {
    requirements::require(
        &[&[Need::Root, Need::Etcd("3.5")][..], &requirements::LOOP_XFS, &requirements::LOOP_EXT4].concat(),
    );
    let _alone = alone();
    let scratch = Scratch::on_disk("harness").unwrap();
    {
        let memory = Tmpfs::mount(&scratch.path().join("memory"), 2048).unwrap();
        let data = LoopFs::create(&memory.path().join("data"), Format::Ext4, 800).unwrap();
        let wal = LoopFs::create(&memory.path().join("wal"), Format::Xfs, 600).unwrap();
        let tls = Mutual::create(scratch.path()).unwrap();
        let member = Member::new(&etcd::find("3.5").unwrap(), "member", data.path()).tls(&tls);
        let etcd = member.wal_dir(&wal.path().join("wal")).start().unwrap();
        let done = put(&etcd, 17_000);
        println!("in memory: {:.0} puts/s", done.rate());
        assert_eq!(etcd.rotations().unwrap(), 1, "17,000 × 4 KiB is one segment and a little");

        let frozen = wal.freeze().unwrap();
        let load = Load { amount: Amount::Puts(10), ..Load::default() }.start(etcd.endpoint());
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(load.so_far().puts, 0, "nothing is durable on a frozen file system");
        drop(frozen);
        assert_eq!(load.wait().unwrap().puts, 10, "thawed, it continues");
        assert_eq!(left_below(scratch.path()).len(), 5, "three mounts and two loop devices");
    }
    assert_eq!(left_below(scratch.path()), BTreeSet::new(), "all undone on drop");
}

#[test]
fn namespaces_hide_paths_and_addresses() {
    requirements::require(&[&[Need::Root, Need::Etcd("3.5")][..], &requirements::NAMESPACES].concat());
    let _alone = alone();
    let scratch = Scratch::on_disk("harness").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let member = Member::new(&etcd::find("3.5").unwrap(), "member", scratch.path()).tls(&tls);
    let mut etcd =
        member.inside(Namespaces::over(scratch.path())).config_source(ConfigSource::File).start().unwrap();
    assert_eq!(
        process::comm(etcd.pid()).as_deref(),
        Some("etcd"),
        "the pid is etcd's, not that of `unshare`"
    );
    let outside = Endpoint::tls(etcd.endpoint().address(), &tls.authority, &tls.client).unwrap();
    assert!(!outside.listens(), "its address means nothing out here");
    assert_eq!(put(&etcd, 200).puts, 200);
    etcd.kill9().unwrap();
    etcd.restart().unwrap();
    assert_eq!(put(&etcd, 200).puts, 200, "in the network of its new process");
    etcd.stop().unwrap();
    assert_eq!(process::comm(etcd.pid()), None);
    assert!(!Path::new("/mnt/etcd").exists(), "nothing of it shows out here");
}

#[test]
fn certificates_that_must_not_work_do_not() {
    requirements::require(&[Need::Etcd("3.5")]);
    let _alone = alone();
    let scratch = Scratch::on_disk("harness").unwrap();
    let authority = Authority::create(scratch.path(), "ca").unwrap();
    let other = Authority::create(scratch.path(), "other-ca").unwrap();
    let good = authority.client("client", Validity::Current).unwrap();
    let clients = [
        (good.clone(), true, "ours"),
        (authority.client("late-client", Validity::Expired).unwrap(), false, "expired"),
        (other.client("other-client", Validity::Current).unwrap(), false, "of an untrusted authority"),
    ];
    let binary = etcd::find("3.5").unwrap();
    let server = authority.server("server", &[], Validity::Current).unwrap();
    let tls = Mutual { authority: authority.certificate().to_owned(), server, client: good.clone() };
    let etcd = Member::new(&binary, "current", scratch.path()).tls(&tls).start().unwrap();
    for (client, works, why) in clients {
        let endpoint = Endpoint::tls(etcd.endpoint().address(), authority.certificate(), &client).unwrap();
        assert_eq!(endpoint.get("/metrics").is_ok(), works, "a client's certificate: {why}");
    }

    let server = authority.server("late-server", &[], Validity::Expired).unwrap();
    let late = Member::new(&binary, "late", scratch.path()).tls(&Mutual { server, ..tls });
    let late = late.readiness(Readiness::Listening).start().unwrap();
    let error = format!("{:#}", late.endpoint().get("/metrics").unwrap_err());
    assert!(error.contains("certificate expired"), "{error}");
}

#[test]
fn an_etcd_that_cannot_start_says_why() {
    requirements::require(&[Need::Etcd("3.4")]);
    let _alone = alone();
    let scratch = Scratch::on_disk("harness").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    fs::remove_file(&tls.server.key).unwrap();
    let member = Member::new(&etcd::find("3.4").unwrap(), "member", scratch.path()).tls(&tls);
    let error = format!("{:#}", member.start().unwrap_err());
    assert!(error.starts_with("cannot start etcd member: it ended with exit code 1; the end of"), "{error}");
    assert!(error.contains("server-key.pem: no such file"), "the end of the log has the reason: {error}");
}

#[test]
fn a_slow_disk_has_the_set_latency_and_leaves_nothing() {
    requirements::require(&[&[Need::Root][..], &requirements::SLOW_EXT4].concat());
    let _alone = alone();
    let scratch = Scratch::on_disk("harness").unwrap();
    let disk = SlowFs::create(&scratch.path().join("disk"), 64).unwrap();
    let file = File::create(disk.path().join("file")).unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    file.sync_all().unwrap();

    // Long, because a busy machine adds to it.
    let delay = Duration::from_millis(200);
    let cases = [
        (Duration::ZERO, Duration::ZERO, 0, "nothing"),
        (delay, Duration::ZERO, 1, "the write"),
        (Duration::ZERO, delay, 1, "the flush"),
        (delay, delay, 2, "both"),
    ];
    for (write, flush, times, why) in cases {
        disk.write_delay(write);
        disk.flush_delay(flush);
        let before = disk.served();
        let since = Stopwatch::start();
        // The block is allocated: one write and one flush.
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.sync_data().unwrap();
        let (took, after) = (since.stop(), disk.served());
        println!("{why}: {took}");
        assert!(took.elapsed >= delay * times && took.when_idle() < delay * (times + 1), "{why}: {took}");
        let served = after.since(&before);
        assert!(served.write_time >= write && served.flush_time >= flush, "{why}: its own clock: {served:?}");
        assert!(
            after.writes > before.writes && after.flushes > before.flushes,
            "{why}: {before:?} {after:?}"
        );
    }
    drop(file);
    let since = Stopwatch::start();
    drop(disk);
    let took = since.stop();
    assert!(took.when_idle() < Duration::from_secs(5), "it is not slow any longer: {took}");
    assert_eq!(left_below(scratch.path()), BTreeSet::new());
}
