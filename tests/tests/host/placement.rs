//! Placement: the probe measures the right etcd, wherever its files are and even if other processes have its
//! name; and a sync that hangs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use probe_tests::etcd::certs::Mutual;
use probe_tests::etcd::load::Load;
use probe_tests::etcd::{self, Member, Namespaces};
use probe_tests::faults::attempts::{ATTEMPTS, Attempt, attempts};
use probe_tests::faults::evidence::Ticker;
use probe_tests::faults::neighbours::{self, Neighbours};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::command;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Format, LoopFs, Overlay, Scratch, Tmpfs};
use probe_tests::probe::assert_exact::{assert_exact, is_count, put_some};
use probe_tests::probe::crosscheck;
use probe_tests::probe::metrics::Metrics;
use probe_tests::probe::{self, Invocation, Probe};

const OFTEN: Duration = Duration::from_millis(200);

const SYNCS_OF_NAMESAKE: u32 = 400;

fn run_probe(scratch: &Scratch) -> Probe {
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path());
    call.arguments(&["--scrape-interval", "200ms"]).run().unwrap()
}

fn member(version: &str, name: &str, directory: &Path) -> Member {
    Member::new(&etcd::find(version).unwrap(), name, directory)
}

fn is_below(path: Option<&PathBuf>, directory: &Path) -> bool {
    path.is_some_and(|path| path.starts_with(directory))
}

#[test]
fn a_wal_is_measured_on_every_file_system() {
    let findmnt = Need::Tool("findmnt", "util-linux");
    let needed = [Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16"), findmnt];
    requirements::require(
        &[&needed[..], &requirements::LOOP_EXT4, &requirements::LOOP_XFS, &requirements::LOOP_BTRFS].concat(),
    );
    let scratch = Scratch::on_disk("elsewhere").unwrap();
    let looped = |name, format| LoopFs::create(&scratch.path().join(name), format, 400).unwrap();
    let (ext4, xfs) = (looped("ext4", Format::Ext4), looped("xfs", Format::Xfs));
    let btrfs = looped("btrfs", Format::Btrfs);
    let overlay = Overlay::mount(&scratch.path().join("overlay")).unwrap();
    let memory = Tmpfs::mount(&scratch.path().join("memory"), 256).unwrap();
    let probe = run_probe(&scratch);
    let disk =
        command::run("findmnt", &["-n", "-o", "FSTYPE", "-T", scratch.path().to_str().unwrap()]).unwrap();
    let cases = [
        ("3.4", "where-data-is", None, disk.as_str()),
        ("3.5.16", "where-ext4-is", Some(ext4.path().join("log")), "ext4"),
        ("3.5.16", "where-xfs-is", Some(xfs.path().join("log")), "xfs"),
        // There `stat` returns another device number than the kernel uses internally.
        ("3.5.16", "where-btrfs-is", Some(btrfs.path().join("log")), "btrfs"),
        ("3.4", "where-overlay-is", Some(overlay.path().join("log")), "overlay"),
        ("3.4", "where-tmpfs-is", Some(memory.path().join("log")), "tmpfs"),
    ];
    let members = cases.each_ref().map(|(version, name, wal_dir, _)| {
        let member = member(version, name, scratch.path());
        wal_dir.iter().fold(member, |member, wal_dir| member.wal_dir(wal_dir)).start().unwrap()
    });
    // Other processes in the same system calls, on the same disk.
    let neighbours = Neighbours::start(scratch.path()).unwrap();
    for etcd in &members {
        put_some(&etcd.endpoint());
    }
    println!("{} neighbours made {} syncs", neighbours::COUNT, neighbours.stop().unwrap());
    for (etcd, (_, name, wal_dir, filesystem)) in members.iter().zip(&cases) {
        assert_exact(&probe, &etcd.endpoint(), name);
        let metrics = probe.metrics().unwrap();
        let labels = [("member", *name)];
        let found: Vec<_> = metrics.all("etcd_disk_probe_member_info", &labels).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert_eq!(found[0].labels["filesystem"], *filesystem, "{name}: {found:?}");
        assert_eq!(found[0].labels["data_dir"], etcd.data_dir().display().to_string(), "{name}: {found:?}");
        let device =
            [&ext4, &xfs, &btrfs].into_iter().find(|looped| is_below(wal_dir.as_ref(), looped.path()));
        if let Some(device) = device {
            assert_eq!(found[0].labels["device"], device.device(), "{name}: {found:?}");
        }
    }
}

#[test]
fn an_etcd_in_namespaces_of_its_own_is_found_and_scraped() {
    requirements::require(
        &[&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")][..], &requirements::NAMESPACES].concat(),
    );
    for (version, name) in [("3.4", "inside-34"), ("3.5.16", "inside-35")] {
        let scratch = Scratch::on_disk("inside").unwrap();
        let tls = Mutual::create(scratch.path()).unwrap();
        let probe = run_probe(&scratch);
        let member = member(version, name, scratch.path()).tls(&tls);
        let etcd = member.inside(Namespaces::over(scratch.path())).start().unwrap();
        assert!(!Path::new("/mnt/etcd").exists(), "{name}: its paths mean nothing out here");
        put_some(&etcd.endpoint());
        assert_exact(&probe, &etcd.endpoint(), name);
        let metrics = probe.metrics().unwrap();
        let data_dir = format!("/mnt/etcd/{name}.etcd");
        let labels = [("member", name), ("data_dir", data_dir.as_str())];
        assert_eq!(
            metrics.value("etcd_disk_probe_member_info", &labels),
            Some(1.0),
            "its path is the one inside its namespace"
        );
    }
}

#[test]
fn an_etcd_that_wakes_up_is_matched_from_its_first_sync() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    for (version, name) in [("3.4", "waking-34"), ("3.5.16", "waking-35")] {
        let scratch = Scratch::on_disk("waking").unwrap();
        let etcd = member(version, name, scratch.path()).start().unwrap();
        // etcd first writes a few internal entries.
        let before = Cancel::default().wait_for(Duration::from_mins(1), || {
            let before = etcd.observations()?;
            thread::sleep(Duration::from_secs(2));
            Ok((etcd.observations()? == before).then_some(before))
        });
        let before = before.unwrap().expect("it comes to rest");
        let probe = run_probe(&scratch);
        assert_eq!(etcd.observations().unwrap(), before, "{name}: the probe has not recorded a sync yet");
        put_some(&etcd.endpoint());
        let figures = crosscheck::settle(&probe, name).unwrap();
        let own = etcd.observations().unwrap();
        assert!(
            is_count(figures[0].kernel, own.wal_fsync - before.wal_fsync),
            "{name}: {before:?} {own:?} {figures:?}"
        );
    }
}

/// A process called `etcd` that is not etcd. Ended on drop.
struct Namesake(Child);

impl Namesake {
    /// Starts it and waits until it has made the given number of syncs.
    fn start(scratch: &Scratch) -> Self {
        let (program, wal) = (scratch.path().join("etcd"), scratch.path().join("wal"));
        fs::copy(env!("CARGO_BIN_EXE_namesake"), &program).unwrap();
        fs::create_dir(&wal).unwrap();
        let mut command = Command::new(&program);
        command.arg(wal.join("0000000000000000-0000000000000000.wal")).arg(SYNCS_OF_NAMESAKE.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
        Self(child)
    }
}

impl Drop for Namesake {
    fn drop(&mut self) {
        drop(self.0.stdin.take()); // The end of its input is its own.
        self.0.wait().expect("it ends with its input");
    }
}

fn unclaimed(probe: &Probe) -> f64 {
    probe.metrics().unwrap().expect("etcd_disk_probe_misses_total", &[("reason", "unclaimed_process")])
}

#[test]
fn a_process_merely_named_etcd_changes_no_counts() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("namesake").unwrap();
    let probe = run_probe(&scratch);
    let etcd = member("3.5.16", "the-real-one", scratch.path()).start().unwrap();
    put_some(&etcd.endpoint());
    let before = unclaimed(&probe);
    let namesake = Namesake::start(&scratch);
    assert_eq!(probe_tests::machine::process::comm(namesake.0.id()).as_deref(), Some("etcd"));
    put_some(&etcd.endpoint());
    thread::sleep(Duration::from_secs(3)); // Three scans.
    assert_exact(&probe, &etcd.endpoint(), "the-real-one");
    let pid = namesake.0.id();
    let report = probe.get("/api/v1/report").unwrap().text().unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let members = report["members"].as_array().unwrap();
    assert!(members.iter().any(|member| member["pid"] == etcd.pid()), "{report}");
    assert!(!members.iter().any(|member| member["pid"] == pid), "it is no member: {report}");
    let dirs = probe.metrics().unwrap().label_values("etcd_disk_probe_member_info", "data_dir");
    let here: Vec<_> = dirs.iter().filter(|dir| Path::new(dir).starts_with(scratch.path())).collect();
    assert_eq!(here, [&etcd.data_dir().display().to_string()], "no member's data is where it is");

    drop(namesake);
    let reported = Cancel::default().wait_for(Duration::from_mins(1), || {
        Ok((unclaimed(&probe) >= before + f64::from(SYNCS_OF_NAMESAKE)).then_some(()))
    });
    assert!(
        reported.unwrap().is_some(),
        "its syncs are not forgotten: {before} before, {}",
        unclaimed(&probe)
    );
    put_some(&etcd.endpoint());
    assert_exact(&probe, &etcd.endpoint(), "the-real-one");
}

#[test]
fn members_with_the_same_name_are_distinguished() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("twins").unwrap();
    let probe = run_probe(&scratch);
    let members = ["3.4", "3.5.16"].map(|version| {
        let directory = scratch.path().join(version);
        fs::create_dir(&directory).unwrap();
        let etcd = member(version, "twin", &directory).start().unwrap();
        put_some(&etcd.endpoint());
        etcd
    });
    put_some(&members[0].endpoint());
    let labels = members.each_ref().map(|etcd| format!("twin@{}", etcd.data_dir().display()));
    for (etcd, label) in members.iter().zip(&labels) {
        assert_exact(&probe, &etcd.endpoint(), label);
    }
    let metrics = probe.metrics().unwrap();
    assert_eq!(
        metrics.value("etcd_disk_probe_etcd_up", &[("member", "twin")]),
        None,
        "no member has the bare name"
    );
}

/// The probe's figures for a member at one moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    in_flight_s: f64,
    stalled: bool,
}

fn moment(metrics: &Metrics, name: &str) -> Moment {
    let in_flight = |file| {
        let labels = [("member", name), ("file", file)];
        metrics.expect("etcd_disk_probe_operation_in_flight_seconds", &labels)
    };
    let stalled = metrics.expect("etcd_disk_probe_verdict", &[("member", name), ("verdict", "stalled")]);
    Moment { in_flight_s: in_flight("wal").max(in_flight("backend")), stalled: stalled > 0.0 }
}

#[test]
fn a_sync_that_hangs_shows_while_it_hangs() {
    requirements::require(
        &[&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")][..], &requirements::LOOP_EXT4].concat(),
    );
    for (version, name) in [("3.4", "frozen-34"), ("3.5.16", "frozen-35")] {
        attempts("a_sync_that_hangs_shows_while_it_hangs", ATTEMPTS, |_| hang_a_sync(version, name));
    }
}

/// Freezes a member's disk for three seconds; the attempt is disturbed if the test itself could not read the
/// probe's page in time.
fn hang_a_sync(version: &str, name: &str) -> Attempt<()> {
    let scratch = Scratch::on_disk("frozen").unwrap();
    let disk = LoopFs::create(&scratch.path().join("disk"), Format::Ext4, 400).unwrap();
    let probe = run_probe(&scratch);
    // Its log is outside: only the disk should hang.
    let member = member(version, name, scratch.path()).data_dir(&disk.path().join("data"));
    let etcd = member.start().unwrap();
    let load = Load { connections: 1, value_bytes: 512, tolerant: true, ..Load::default() };
    let load = load.start(etcd.endpoint());
    thread::sleep(Duration::from_secs(1));

    let ticker = Ticker::start();
    let frozen = disk.freeze().unwrap();
    let (since, mut moments) = (Instant::now(), Vec::new());
    while since.elapsed() < Duration::from_secs(3) {
        moments.push(moment(&probe.metrics().unwrap(), name));
        thread::sleep(OFTEN);
    }
    let frozen_s = since.elapsed().as_secs_f64();
    drop(frozen);
    let conditions = ticker
        .stop()
        .small()
        .at_least("readings while frozen", moments.len() as f64, 8.0)
        .at_most("seconds frozen", frozen_s, 4.0);
    if let Attempt::Disturbed(reason) = conditions.judge(()) {
        return Attempt::Disturbed(reason);
    }
    let rising = moments.windows(2).filter(|pair| pair[1].in_flight_s > pair[0].in_flight_s).count();
    assert!(rising >= 3, "{name}: the age rises: {moments:?}");
    let last = moments[moments.len() - 1];
    assert!(last.in_flight_s > 1.5 && last.in_flight_s < 5.0, "{name}: to the age that it has: {moments:?}");
    let unsaid = moments.iter().find(|moment| moment.in_flight_s > 1.0 && !moment.stalled);
    assert!(unsaid.is_none(), "{name}: above a second it is called stalled: {moments:?}");

    let thawed = Cancel::default().wait_for(Duration::from_mins(1), || {
        let now = moment(&probe.metrics()?, name);
        Ok((now.in_flight_s < 1.0 && !now.stalled).then_some(()))
    });
    assert!(thawed.unwrap().is_some(), "{name}: a returned sync is not reported as hanging");
    println!("{name}: {rising} of {} readings rose, to {:.1} s", moments.len(), last.in_flight_s);
    load.stop().unwrap();
    assert_exact(&probe, &etcd.endpoint(), name);
    Attempt::Valid(())
}
