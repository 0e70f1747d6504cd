//! Certificates that are replaced under a running probe: no scrape is lost, and the exported expiry changes.
//!
//! etcd reads its certificate and key for every new connection, but its client authorities only once at its
//! start (`baseConfig` and `ServerConfig` of client/pkg/transport/listener.go, 3.4 to 3.6). A rollover of
//! authorities therefore takes three steps: etcd is restarted with both, then certificates are replaced, then
//! the old authority is removed. This test performs the second and the third, because the restart in the
//! first always loses scrapes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::ensure;
use probe_tests::etcd::certs::{Authority, Mutual, Pair, Validity};
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Member};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::Endpoint;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::crosscheck;
use probe_tests::probe::metrics::Metrics;
use probe_tests::probe::{self, Invocation, Probe};

const NAME: &str = "rotated";

const ERRORS: &str = "etcd_disk_probe_etcd_scrape_errors_total";

/// Five scrapes and more.
const SOME_SCRAPES: Duration = Duration::from_millis(700);

const LITTLE: Load =
    Load { amount: Amount::UntilStopped, connections: 1, value_bytes: 512, keys: 100, tolerant: false };

/// Polls the probe's scrape metrics on a separate thread.
struct Watch(Cancel, JoinHandle<anyhow::Result<u32>>);

impl Watch {
    fn start(probe: &Probe, lost: u32) -> Self {
        let (stop, endpoint) = (Cancel::default(), probe.endpoint());
        let stopped = stop.clone();
        Self(stop, thread::spawn(move || watch(&endpoint, lost, &stopped)))
    }

    /// Returns the number of readings; the first incorrect reading is an error.
    fn stop(self) -> anyhow::Result<u32> {
        self.0.cancel();
        self.1.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Returns the number of failed scrapes.
fn lost(metrics: &Metrics) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of scrapes")]
    let count = metrics.sum(ERRORS, &[("member", NAME)]) as u32;
    count
}

fn watch(endpoint: &Endpoint, before: u32, stop: &Cancel) -> anyhow::Result<u32> {
    let (mut looks, named) = (0, [("member", NAME)]);
    while !stop.is_cancelled() {
        let metrics = Metrics::parse(&endpoint.get("/metrics")?.text()?)?;
        ensure!(
            metrics.value("etcd_disk_probe_etcd_up", &named) == Some(1.0),
            "reading {looks}: etcd is not up"
        );
        ensure!(lost(&metrics) == before, "reading {looks}: {} scrapes failed", lost(&metrics) - before);
        let figures = crosscheck::of(&metrics, NAME);
        ensure!(
            figures.as_ref().is_some_and(|all| all.iter().all(crosscheck::Crosscheck::is_exact)),
            "reading {looks}: {figures:?}"
        );
        looks += 1;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(looks)
}

/// Returns the days until a certificate expires.
fn days(probe: &Probe, certificate: &str) -> Option<f64> {
    let labels = [("member", NAME), ("certificate", certificate)];
    let metrics = probe.metrics().ok()?;
    let end_s = metrics.value("etcd_disk_probe_etcd_certificate_expiry_timestamp_seconds", &labels)?;
    Some((end_s - std::time::UNIX_EPOCH.elapsed().ok()?.as_secs_f64()) / 86_400.0)
}

fn wait_for_days(probe: &Probe, certificate: &str, expected: f64, why: &str) {
    let is_it = |days: Option<f64>| days.is_some_and(|days| (days - expected).abs() < 0.5);
    let found = Cancel::default()
        .wait_for(Duration::from_mins(2), || Ok(is_it(days(probe, certificate)).then_some(())));
    let now = days(probe, certificate);
    assert!(found.unwrap().is_some(), "{why}: {certificate} ends in {now:?} days: {}", probe.log().unwrap());
    println!("{why}: {certificate} ends in {:.1} days", now.unwrap_or_default());
}

/// Replaces a certificate and, after a while, its key: in between they do not match.
fn replace(old: &Pair, new: &Pair) {
    fs::rename(&new.certificate, &old.certificate).unwrap();
    thread::sleep(SOME_SCRAPES);
    fs::rename(&new.key, &old.key).unwrap();
    thread::sleep(SOME_SCRAPES);
}

/// Replaces files as the kubelet does: in a directory that `..data` points to, with links next to it.
fn mount(at: &Path, version: &str, files: &[(&str, &Path)]) {
    fs::create_dir_all(at.join(version)).unwrap();
    for (name, from) in files {
        fs::copy(from, at.join(version).join(name)).unwrap();
        if !at.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), at.join(name)).unwrap();
        }
    }
    symlink(version, at.join("..next")).unwrap();
    fs::rename(at.join("..next"), at.join("..data")).unwrap();
    thread::sleep(SOME_SCRAPES);
}

#[test]
fn no_scrape_is_lost_while_certificates_are_replaced() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.30")]);
    let scratch = Scratch::on_disk("rotation").unwrap();
    let directory = scratch.path();
    // The old authority is about to expire, which is why it is replaced.
    let old = Authority::lasting(directory, "old-ca", Validity::Ending).unwrap();
    let new = Authority::create(directory, "new-ca").unwrap();
    let both = directory.join("both-ca.pem");
    let bundle =
        [old.certificate(), new.certificate()].map(|path| fs::read_to_string(path).unwrap()).concat();
    fs::write(&both, &bundle).unwrap();
    let trusted = directory.join("trusted-ca.pem");
    fs::copy(&both, &trusted).unwrap();
    let tls = Mutual {
        authority: trusted.clone(),
        server: old.server("server", &[], Validity::Ending).unwrap(),
        client: old.client("client", Validity::Ending).unwrap(),
    };
    // The operator's files, as in a pod.
    let given = directory.join("given");
    let files = |ca: &'static str, pair: &Pair| {
        [("ca.pem", directory.join(ca)), ("tls.crt", pair.certificate.clone()), ("tls.key", pair.key.clone())]
    };
    let put = |version: &str, files: [(&'static str, std::path::PathBuf); 3]| {
        mount(&given, version, &files.each_ref().map(|(name, path)| (*name, path.as_path())));
    };
    put("..1", files("old-ca.pem", &tls.client));

    let call =
        Invocation::new(&probe::binary().unwrap(), directory).arguments(&["--scrape-interval", "100ms"]);
    // One probe discovers everything itself, the other is configured by flags.
    let found = call.clone().run().unwrap();
    let paths = ["ca.pem", "tls.crt", "tls.key"].map(|name| given.join(name).display().to_string());
    let configured =
        call.arguments(&["--cacert", &paths[0], "--cert", &paths[1], "--key", &paths[2]]).run().unwrap();
    let etcd = Member::new(&etcd::find("3.5.30").unwrap(), NAME, directory).tls(&tls).start().unwrap();
    for probe in [&found, &configured] {
        let up = Cancel::default().wait_for(Duration::from_mins(1), || {
            Ok((probe.metrics()?.value("etcd_disk_probe_etcd_up", &[("member", NAME)]) == Some(1.0))
                .then_some(()))
        });
        assert!(up.unwrap().is_some(), "{}", probe.log().unwrap());
        wait_for_days(probe, "server", 10.5, "before");
    }
    // A starting etcd may have been queried before it listened; from here on nothing may fail.
    let before = [&found, &configured].map(|probe| lost(&probe.metrics().unwrap()));
    let load = LITTLE.start(etcd.endpoint());
    let watches = [Watch::start(&found, before[0]), Watch::start(&configured, before[1])];

    replace(&tls.server, &old.server("server-2", &[], Validity::Current).unwrap());
    for probe in [&found, &configured] {
        wait_for_days(probe, "server", 365.5, "the server's was replaced");
    }
    wait_for_days(&found, "client", 365.5, "etcd's own pair is shown, too");

    // A client certificate that this etcd rejects: the open connection continues to work, and the probe
    // reports it.
    let stranger = Authority::create(directory, "stranger-ca").unwrap();
    put("..2", files("old-ca.pem", &stranger.client("of-stranger", Validity::Current).unwrap()));
    assert!(configured.log().unwrap().contains(
        "scrapes continue over the old connection: cannot authenticate to etcd: it rejected the client"
    ));
    let client = new.client("client-2", Validity::Current).unwrap();
    put("..3", files("old-ca.pem", &client));
    wait_for_days(&configured, "client", 365.5, "the client's was replaced by one of the new authority");

    wait_for_days(&configured, "ca", 10.5, "the old authority alone");
    put("..4", files("both-ca.pem", &client));
    replace(&tls.server, &new.server("server-3", &[], Validity::Current).unwrap());
    put("..5", files("new-ca.pem", &client));
    fs::copy(new.certificate(), directory.join("next")).unwrap();
    fs::rename(directory.join("next"), &trusted).unwrap();
    for probe in [&found, &configured] {
        wait_for_days(probe, "ca", 365.5, "the new authority alone");
    }

    let looks = watches
        .map(|watch| watch.stop().unwrap_or_else(|error| panic!("{error:#}: {}", configured.log().unwrap())));
    load.stop().unwrap();
    for (probe, before) in [&found, &configured].into_iter().zip(before) {
        let figures = crosscheck::settle(probe, NAME).unwrap();
        assert!(figures[0].kernel > 100.0, "the load shows: {figures:?}");
        assert_eq!(lost(&probe.metrics().unwrap()), before, "{}", probe.log().unwrap());
        let renewed = probe.log().unwrap().matches("reconnected to etcd").count();
        println!(
            "{looks:?} readings, {renewed} reconnections, difference 0 over {} syncs",
            figures[0].kernel
        );
        assert!(renewed >= 2, "{}", probe.log().unwrap());
    }
}
