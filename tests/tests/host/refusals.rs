//! Every impossible configuration fails with one sentence: scrapes that fail while the kernel side continues,
//! and incorrect usage.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use probe_tests::etcd::certs::{Authority, Mutual, Pair, Validity};
use probe_tests::etcd::fake::{Answer, FakeEtcd};
use probe_tests::etcd::load::{Amount, Load, Running};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::free_address;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::crosscheck;
use probe_tests::probe::loaded_programs;
use probe_tests::probe::metrics::Metrics;
use probe_tests::probe::{self, Finished, Invocation};

const PACE: [&str; 2] = ["--scrape-interval", "200ms"];

/// Enough puts to be visible, but not enough to keep the machine busy.
const LITTLE: Load =
    Load { amount: Amount::UntilStopped, connections: 1, value_bytes: 512, keys: 100, tolerant: false };

fn call(scratch: &Scratch) -> Invocation {
    Invocation::new(&probe::binary().unwrap(), scratch.path())
}

fn member(version: &str, name: &str, scratch: &Scratch) -> Member {
    Member::new(&etcd::find(version).unwrap(), name, scratch.path())
}

fn verdict_is(metrics: &Metrics, member: &str, verdict: &str) -> bool {
    metrics.value("etcd_disk_probe_verdict", &[("member", member), ("verdict", verdict)]) == Some(1.0)
}

/// A cause for a failed scrape, and how the probe must report it.
struct Failing<'a> {
    why: &'a str,
    flags: Vec<&'a str>,
    reason: &'a str,
    sentence: &'a str,
}

/// Runs a probe that cannot scrape the members, and compares its output with the expected output.
fn assert_reported(scratch: &Scratch, case: &Failing, members: &[&str]) {
    let why = case.why;
    let probe = call(scratch).arguments(&PACE).arguments(&case.flags).run().unwrap();
    for &member in members {
        let named = [("member", member)];
        let count =
            |metrics: &Metrics| metrics.value("etcd_disk_probe_wal_fsync_duration_seconds_count", &named);
        let errors = |metrics: &Metrics| {
            let labels = [("member", member), ("reason", case.reason)];
            metrics.value("etcd_disk_probe_etcd_scrape_errors_total", &labels).unwrap_or(0.0)
        };
        let first = count(&probe.metrics().unwrap()).unwrap_or(0.0);
        let reported = Cancel::default().wait_for(Duration::from_mins(1), || {
            let metrics = probe.metrics()?;
            assert!(!verdict_is(&metrics, member, "healthy"), "{why}: {member} is not known to be healthy");
            let measured = count(&metrics).is_some_and(|count| count > first + 10.0);
            Ok((errors(&metrics) >= 2.0 && measured).then_some(metrics))
        });
        let metrics = reported.unwrap().unwrap_or_else(|| {
            let metrics = probe.metrics().unwrap();
            let all: Vec<_> = metrics.all("etcd_disk_probe_etcd_scrape_errors_total", &named).collect();
            panic!(
                "{why}: {member}: {all:?}, {first} and {:?} syncs: {}",
                count(&metrics),
                probe.log().unwrap()
            );
        });
        let reasons = metrics.all("etcd_disk_probe_etcd_scrape_errors_total", &named);
        let others: Vec<_> =
            reasons.filter(|sample| sample.labels["reason"] != case.reason && sample.value > 0.0).collect();
        assert!(others.is_empty(), "{why}: {member} fails for one reason: {others:?}");
        assert_eq!(metrics.value("etcd_disk_probe_etcd_up", &named), Some(0.0), "{why}");
        assert!(verdict_is(&metrics, member, "blind"), "{why}: {member}");
        assert!(probe.is_ready(), "{why}: it measures, so it is ready");

        let log = probe.log().unwrap();
        let mine = format!("member=\"{member}\"");
        let scrapes = log.lines().filter(|line| line.contains(" WARN cannot scrape etcd: "));
        let lines: Vec<_> = scrapes.filter(|line| line.contains(&mine)).collect();
        assert_eq!(lines.len(), 1, "{why}: reported once: {log}");
        assert!(lines[0].contains(case.sentence), "{why}: {:?} in {}", case.sentence, lines[0]);
    }
}

/// Two etcd members under load, with the same certificates.
fn two_under_load(scratch: &Scratch, names: [&str; 2], tls: Option<&Mutual>) -> [(Running, Etcd); 2] {
    [("3.4", names[0]), ("3.5.16", names[1])].map(|(version, name)| {
        let member = member(version, name, scratch);
        let etcd = tls.iter().fold(member, |member, tls| member.tls(tls)).start().unwrap();
        (LITTLE.start(etcd.endpoint()), etcd)
    })
}

fn flags(pair: &Pair) -> Vec<&str> {
    vec!["--cert", pair.certificate.to_str().unwrap(), "--key", pair.key.to_str().unwrap()]
}

#[test]
fn unusable_certificates_are_distinguished() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("refusals").unwrap();
    let authority = Authority::create(scratch.path(), "ca").unwrap();
    let stranger = Authority::create(scratch.path(), "stranger-ca").unwrap();
    let client = authority.client("client", Validity::Current).unwrap();
    let server = authority.server("server", &[], Validity::Current).unwrap();
    let tls = Mutual {
        authority: authority.certificate().to_owned(),
        server: server.clone(),
        client: client.clone(),
    };
    let names = ["refusing-34", "refusing-35"];
    let _running = two_under_load(&scratch, names, Some(&tls));

    let of_stranger = stranger.client("of-stranger", Validity::Current).unwrap();
    let late = authority.client("late", Validity::Expired).unwrap();
    let mixed = Pair { certificate: client.certificate.clone(), key: of_stranger.key.clone() };
    let rejected = "cannot authenticate to etcd: it rejected the client certificate `";
    let cases = [
        ("a stranger's client certificate", flags(&of_stranger), "tls_client_rejected", rejected),
        ("an expired client certificate", flags(&late), "tls_client_rejected", rejected),
        ("another certificate's key", flags(&mixed), "unreadable_credentials", "cannot use the key file `"),
        (
            "a server of an authority that is not trusted",
            vec!["--cacert", stranger.certificate().to_str().unwrap()],
            "tls_untrusted",
            "cannot verify etcd's certificate: no trusted authority has signed it; see --cacert",
        ),
    ];
    for (why, flags, reason, sentence) in cases {
        assert_reported(&scratch, &Failing { why, flags, reason, sentence }, &names);
    }

    // etcd reads its certificate for every new connection; the connections of the load are open already.
    let expired = authority.server("expired-server", &[], Validity::Expired).unwrap();
    fs::rename(&expired.certificate, &server.certificate).unwrap();
    fs::rename(&expired.key, &server.key).unwrap();
    let sentence = "cannot verify etcd's certificate: it has expired, or is not valid yet";
    let ca = authority.certificate().to_str().unwrap();
    // Without a flag the probe trusts etcd's own certificate and checks its validity itself; with the flag it
    // verifies the authority.
    for (why, authority) in
        [("an expired server", vec![]), ("an expired server by its CA", vec!["--cacert", ca])]
    {
        let flags = [flags(&client), authority].concat();
        assert_reported(&scratch, &Failing { why, flags, reason: "tls_expired", sentence }, &names);
    }
}

#[test]
fn servers_that_are_not_etcd_are_distinguished() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("refusals").unwrap();
    let names = ["misled-34", "misled-35"];
    let _running = two_under_load(&scratch, names, None);
    let unserved = format!("http://{}", free_address().unwrap());
    let late = "cannot get etcd's metrics in time: no answer within 1s";
    let cases = [
        ("no listener", None, "refused", "cannot connect to etcd: the connection was refused"),
        ("no end", Some(Answer::Endless), "too_large", "the answer is larger than 4194304 bytes"),
        ("a drop at a time", Some(Answer::Dripping), "timeout", late),
        ("silence", Some(Answer::Nothing), "timeout", late),
        (
            "a page",
            Some(Answer::Page("<html>It works!</html>")),
            "not_metrics",
            "cannot read etcd's metrics: its first line is not a metric",
        ),
        (
            "metrics of another program",
            Some(Answer::Page("up 1\n")),
            "not_etcd",
            "cannot accept the answer as etcd's metrics: etcd_disk_wal_fsync_duration_seconds is missing",
        ),
        (
            "another status",
            Some(Answer::Status("404 Not Found")),
            "http_status",
            "cannot get etcd's metrics: it answered with HTTP status 404",
        ),
    ];
    for (why, answer, reason, sentence) in cases {
        let server = answer.map(|answer| FakeEtcd::start(answer).unwrap());
        let url =
            server.as_ref().map_or_else(|| unserved.clone(), |server| format!("http://{}", server.address()));
        let flags = vec!["--command-timeout", "1s", "--endpoints", &url];
        assert_reported(&scratch, &Failing { why, flags, reason, sentence }, &names);
    }
}

#[test]
fn the_endpoint_of_another_etcd_is_detected() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("refusals").unwrap();
    let one = member("3.4", "mistaken", &scratch).start().unwrap();
    thread::sleep(Duration::from_secs(2)); // Their start times distinguish them, to a second.
    let other = member("3.5.16", "mistaken-for", &scratch).start().unwrap();
    let url = other.endpoint().url();
    let probe = call(&scratch).arguments(&PACE).arguments(&["--endpoints", &url]).run().unwrap();
    for etcd in [&one, &other] {
        Load { amount: Amount::Puts(300), ..LITTLE }.start(etcd.endpoint()).wait().unwrap();
    }
    let figures = crosscheck::settle(&probe, "mistaken-for")
        .unwrap_or_else(|error| panic!("{error:#}: {}", probe.log().unwrap()));
    assert!(figures[0].kernel >= 300.0, "{figures:?}");
    let metrics = probe.metrics().unwrap();
    let up = |member| metrics.value("etcd_disk_probe_etcd_up", &[("member", member)]);
    assert_eq!((up("mistaken"), up("mistaken-for")), (Some(0.0), Some(1.0)));
    assert!(verdict_is(&metrics, "mistaken", "endpoint_mismatch"), "{}", probe.log().unwrap());
    assert!(!verdict_is(&metrics, "mistaken-for", "endpoint_mismatch"));
    let measured =
        metrics.expect("etcd_disk_probe_wal_fsync_duration_seconds_count", &[("member", "mistaken")]);
    assert!(measured >= 100.0, "the kernel side does not depend on it: {measured}");
}

/// Runs a command that must fail.
fn refused(call: &Invocation, command: &str) -> Finished {
    let orphans = loaded_programs::orphans().unwrap();
    let finished = call.start(command).unwrap().wait(Duration::from_mins(1)).unwrap();
    let clean = Cancel::default().wait_for(Duration::from_secs(30), || {
        Ok(loaded_programs::orphans()?.is_subset(&orphans).then_some(()))
    });
    assert!(
        clean.unwrap().is_some(),
        "nothing is left attached: {:?}, {finished:?}",
        loaded_programs::orphans()
    );
    finished
}

#[test]
fn bad_usage_is_one_sentence_and_an_exit_code() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Tool("setpriv", "util-linux")]);
    let scratch = Scratch::on_disk("refusals").unwrap();
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = occupied.local_addr().unwrap().to_string();
    let free = || free_address().unwrap().to_string();
    // A directory that an ordinary user may read.
    let program = scratch.path().join("etcd-disk-probe");
    fs::copy(probe::binary().unwrap(), &program).unwrap();
    let call = || Invocation::new(&program, scratch.path());
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
    let powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let privilege = "cannot start the kernel probe: ";
    let cases = [
        (call().arguments(&["--nonsense"]), 64, "--nonsense", "an unknown flag"),
        (
            call().arguments(&["--window", "1s"]),
            64,
            "--window must be at least",
            "flags that do not go together",
        ),
        (call().arguments(&["--endpoints", "localhost"]), 64, "--endpoints localhost: not a URL", "no URL"),
        (
            call().arguments(&["--cacert", "/none/ca.pem"]),
            66,
            "cannot read `/none/ca.pem` of --cacert: ",
            "no file",
        ),
        (call().arguments(&["--listen", &taken]), 71, &format!("cannot listen on {taken}"), "address in use"),
        (call().arguments(&["--listen", &free()]).through(&nobody), 77, privilege, "an ordinary user"),
        (
            call().arguments(&["--listen", &free()]).through(&powerless),
            77,
            privilege,
            "root without capabilities",
        ),
    ];
    for (call, code, sentence, why) in cases {
        let finished = refused(&call, "run");
        println!("{why}: {}", finished.stderr.lines().next().unwrap_or_default());
        assert_eq!(finished.code, Some(code), "{why}: {finished:?}");
        assert_eq!(finished.stdout, "", "{why}");
        let said = finished.stderr.trim_end();
        // clap appends the usage after its sentence.
        let sentences = said.split_once("\n\nUsage:").map_or(said, |(sentence, _)| sentence);
        let sentences = sentences.split("\n\n  tip:").next().unwrap();
        assert_eq!(sentences.lines().count(), 1, "{why}: one sentence: {said}");
        assert!(sentences.contains(sentence), "{why}: {sentence:?} in {said}");
    }

    let check = call().arguments(&["--process-name", "no-such-etcd", "--duration", "1s"]);
    let finished = refused(&check, "check");
    assert_eq!(finished.code, Some(2), "no member to judge: {finished:?}");
    let sentence = "no etcd found: no process of its name holds a WAL open (see --process-name)\n";
    assert_eq!(finished.stdout, sentence, "{finished:?}");
}
