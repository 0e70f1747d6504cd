//! A hostile etcd does no harm: the daemon's memory is bounded, its page stays valid, and the kernel's counts
//! are exact.

use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use probe_tests::etcd::hostile::{Hostile, Malformed};
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::faults::evidence::Ticker;
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::process;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::observability::prometheus;
use probe_tests::probe::metrics::Metrics;
use probe_tests::probe::{self, Invocation, Probe};

/// The limit of the daemon's resident memory for any answer of etcd. docs/etcd-metrics.md states it.
const RESIDENT_MAX_BYTES: u64 = 64 << 20;

/// The duration of each malformed answer: long enough for a scrape to time out.
const EACH: Duration = Duration::from_millis(1_400);

/// The minimum duration of the test in seconds; every kind of answer occurs at least once.
const DURATION: &str = "ETCD_DISK_PROBE_HOSTILE_SECONDS";

/// The time limit for `/metrics`: a second for etcd, and a margin for a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

const LIGHT: Load =
    Load { amount: Amount::UntilStopped, connections: 1, value_bytes: 100, keys: 100, tolerant: false };

struct Setting {
    hostile: Hostile,
    probe: Probe,
    etcd: Etcd,
}

#[test]
fn a_hostile_etcd_costs_neither_memory_nor_events() {
    requirements::require(&[
        Need::Root,
        Need::Bpf,
        Need::Etcd("3.5"),
        Need::Prometheus,
        Need::Tool("gzip", "gzip"),
    ]);
    let stated = format!("below {} MiB resident", RESIDENT_MAX_BYTES >> 20);
    assert!(
        include_str!("../../../docs/etcd-metrics.md").contains(&stated),
        "docs/etcd-metrics.md states {stated}"
    );
    let seconds = std::env::var(DURATION).map_or(30, |text| text.parse().expect("a number of seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let scratch = Scratch::on_disk("hostile").unwrap();
    let hostile = Hostile::start().unwrap();
    // A unique name, so that the probe queries only the hostile server for this etcd.
    let name = format!("etcd-{}", std::process::id());
    let binary = scratch.path().join(&name);
    symlink(etcd::find("3.5").unwrap(), &binary).unwrap();
    let url = hostile.url();
    // Before etcd, so that the probe observes its first sync.
    let arguments = ["--process-name", &name, "--endpoints", &url, "--scrape-interval", "500ms"];
    let arguments = [&arguments[..], &["--command-timeout", "1s", "--window", "5s"]].concat();
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path());
    let probe = call.arguments(&arguments).run().unwrap();
    let etcd = Member::new(&binary, &name, scratch.path()).start().unwrap();
    hostile.answer_for(etcd.endpoint());
    let setting = Setting { hostile, probe, etcd };
    let load = LIGHT.start(setting.etcd.endpoint());
    let healthy = Cancel::default().wait_for(Duration::from_mins(1), || {
        Ok((verdict(&setting, &setting.probe.metrics()?) != "blind").then_some(()))
    });
    assert!(healthy.unwrap().is_some(), "as long as it is honest: {}", setting.probe.log().unwrap());

    let mut round = 0;
    let (lasting, ways) =
        (Malformed::Falling, Malformed::ALL.iter().filter(|answer| **answer != Malformed::Falling));
    while round == 0 || Instant::now() < end {
        round += 1;
        for answer in ways.clone() {
            serve_malformed(&setting, *answer);
        }
        assert!(setting.probe.is_ready(), "an etcd that cannot be scraped is no fault of the probe's");
        let resident = process::resident_bytes(setting.probe.pid()).unwrap();
        println!("round {round}: {} resident, {} at most", mib(resident), mib(peak(&setting)));
    }
    serve_malformed(&setting, lasting);
    assert!(!setting.probe.is_ready(), "the counts of kernel and etcd contradict each other from here on");
    println!("{:?}; {} at most", load.stop().unwrap(), mib(peak(&setting)));

    assert_exact(&setting);
    let log = setting.probe.log().unwrap();
    assert!(!log.contains("panicked") && !log.contains("broke off"), "{log}");
    assert_eq!(setting.probe.get("/-/healthy").unwrap().status, 200);
}

/// Serves one malformed answer for a while and watches the probe.
fn serve_malformed(setting: &Setting, answer: Malformed) {
    setting.hostile.answer_with(answer);
    let (began, ticker) = (Instant::now(), Ticker::start());
    let mut slowest = Duration::ZERO;
    let mut text = String::new();
    while began.elapsed() < EACH {
        let sent = Instant::now();
        text = setting.probe.get("/metrics").unwrap().text().unwrap();
        slowest = slowest.max(sent.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    let lateness = ticker.stop();
    let metrics = Metrics::parse(&text).unwrap();
    let verdict = verdict(setting, &metrics);
    let served = metrics.sum("etcd_server_has_leader", &[("member", setting.etcd.name())]);
    println!("{answer:?}: {verdict}, leader {served}, {slowest:?} at most, {} so far", mib(peak(setting)));
    let limit = ANSWER_LIMIT + lateness.total;
    assert!(slowest < limit, "{answer:?}: /metrics took {slowest:?}; {lateness}");
    let resident = peak(setting);
    assert!(resident < RESIDENT_MAX_BYTES, "{answer:?}: {} resident", mib(resident));
    // Prometheus can read the page for every answer of etcd; the only complaints are about etcd's own names.
    let found = prometheus::check_metrics(&text).unwrap();
    let of_names = |line: &&String| !line.ends_with("suffix") && !line.ends_with("no help text");
    assert_eq!(found.iter().filter(of_names).count(), 0, "{answer:?}: {found:?}");
    if answer.keeps_the_cross_check() {
        assert!(served > 0.5, "{answer:?}: valid series are re-exported: {}", setting.probe.log().unwrap());
    } else {
        assert_ne!(verdict, "healthy", "{answer:?}");
    }
}

/// Returns the verdict on the member; `blind` while there is none.
fn verdict(setting: &Setting, metrics: &Metrics) -> String {
    let of_member = [("member", setting.etcd.name())];
    let mut verdicts = metrics.all("etcd_disk_probe_verdict", &of_member);
    let current = verdicts.find(|sample| sample.value > 0.5);
    current.map_or_else(|| "blind".to_owned(), |sample| sample.labels["verdict"].clone())
}

/// Compares the total of the kernel's counts with the counts of the real etcd, when idle.
fn assert_exact(setting: &Setting) {
    let mut last = None;
    let equal = Cancel::default().wait_for(Duration::from_mins(1), || {
        let own = setting.etcd.observations()?;
        let metrics = setting.probe.metrics()?;
        let kernel = ["wal_fsync", "backend_commit"].map(|metric| {
            let name = format!("etcd_disk_probe_{metric}_duration_seconds_count");
            metrics.expect(&name, &[("member", setting.etcd.name())])
        });
        let etcd = [own.wal_fsync, own.backend_commit].map(|count| count as f64);
        last = Some((etcd, kernel));
        Ok(etcd.iter().zip(kernel).all(|(etcd, kernel)| (etcd - kernel).abs() < 0.5).then_some(()))
    });
    println!("etcd's own and the kernel's counts: {last:?}");
    assert!(equal.unwrap().is_some(), "the counts differ: {last:?}");
}

fn peak(setting: &Setting) -> u64 {
    process::peak_resident_bytes(setting.probe.pid()).unwrap()
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
