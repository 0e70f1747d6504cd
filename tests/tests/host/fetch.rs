//! Requests to etcd: every real cause of a failed scrape, endless answers, IPv6, and names.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use probe_tests::etcd::certs::{Authority, Mutual, Pair, Validity};
use probe_tests::etcd::fake::{Answer, FakeEtcd};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::free_address;
use probe_tests::machine::process;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::metrics::Metrics;
use probe_tests::probe::{self, Invocation, Probe};
use serde_json::Value;

const ERRORS: &str = "etcd_disk_probe_etcd_scrape_errors_total";

/// The number of reasons in the closed set.
const REASONS: usize = 13;

/// The additional resident memory while the probe reads an endless answer, compared with an ordinary one: the
/// bound of 4 MiB, twice while the buffer grows, and what the allocator retains.
const EXTRA_BYTES: u64 = 24 << 20;

/// An empty SETTINGS frame, the first bytes of every HTTP/2 server.
const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";

fn call(scratch: &Scratch) -> Invocation {
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path());
    call.arguments(&["--scrape-interval", "200ms", "--command-timeout", "1s"])
}

fn member(name: &str, scratch: &Scratch) -> Member {
    Member::new(&etcd::find("3.5.16").unwrap(), name, scratch.path())
}

fn up(metrics: &Metrics, member: &str) -> Option<f64> {
    metrics.value("etcd_disk_probe_etcd_up", &[("member", member)])
}

/// Waits until the probe has scraped a member.
fn wait_until_up(probe: &Probe, member: &str, why: &str) -> Metrics {
    let found = Cancel::default().wait_for(Duration::from_mins(1), || {
        let metrics = probe.metrics()?;
        Ok((up(&metrics, member) == Some(1.0)).then_some(metrics))
    });
    found.unwrap().unwrap_or_else(|| panic!("{why}: {member} is not up: {}", probe.log().unwrap()))
}

/// A cause for a failed scrape, and how the probe must report it.
struct Failing<'a> {
    why: &'a str,
    flags: Vec<&'a str>,
    reason: &'a str,
    sentence: &'a str,
}

/// Compares the output of a probe that cannot scrape a member with the expected output.
fn assert_reported(probe: &Probe, member: &str, case: &Failing) {
    let Failing { why, reason, sentence, .. } = case;
    let counts = |metrics: &Metrics| -> Vec<(String, f64)> {
        let named = [("member", member)];
        let all = metrics.all(ERRORS, &named);
        all.map(|sample| (sample.labels["reason"].clone(), sample.value)).collect()
    };
    let reported = Cancel::default().wait_for(Duration::from_mins(1), || {
        let metrics = probe.metrics()?;
        let enough = counts(&metrics).iter().any(|(of, count)| of == reason && *count >= 2.0);
        Ok(enough.then_some(metrics))
    });
    let metrics = reported
        .unwrap()
        .unwrap_or_else(|| panic!("{why}: {:?} {}", counts(&probe.metrics().unwrap()), probe.log().unwrap()));
    let counts = counts(&metrics);
    assert_eq!(counts.len(), REASONS, "{why}: every reason is exported: {counts:?}");
    assert!(
        counts.iter().all(|(of, count)| of == reason || *count == 0.0),
        "{why}: for one reason: {counts:?}"
    );
    assert_eq!(up(&metrics, member), Some(0.0), "{why}");
    let log = probe.log().unwrap();
    let mine = format!("member=\"{member}\" reason=\"{reason}\"");
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains(" cannot scrape etcd: ") && line.contains(&mine)).collect();
    assert_eq!(lines.len(), 1, "{why}: reported once: {log}");
    println!("{why}: {}", lines[0].split_once("etcd: ").map_or(lines[0], |(_, reported)| reported));
    assert!(lines[0].contains(sentence), "{why}: {sentence:?} in {}", lines[0]);
    let report = probe.get("/api/v1/report").unwrap().text().unwrap();
    assert!(!report.contains("-key.pem"), "{why}: no path of a key: {report}");
}

/// Runs a probe for each case, a few at a time.
fn assert_all_reported(scratch: &Scratch, member: &str, cases: &[Failing]) {
    for some in cases.chunks(8) {
        let mut probes: Vec<_> =
            some.iter().map(|case| call(scratch).arguments(&case.flags).launch().unwrap()).collect();
        for (probe, case) in probes.iter_mut().zip(some) {
            probe.wait_until_ready(Duration::from_mins(1)).unwrap();
            assert_reported(probe, member, case);
        }
    }
}

fn flags(pair: &Pair) -> Vec<&str> {
    vec!["--cert", pair.certificate.to_str().unwrap(), "--key", pair.key.to_str().unwrap()]
}

#[test]
fn a_port_of_another_protocol_is_reported() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("fetch").unwrap();
    let authority = Authority::create(scratch.path(), "ca").unwrap();
    let stranger = Authority::create(scratch.path(), "stranger-ca").unwrap();
    let client = authority.client("client", Validity::Current).unwrap();
    let tls = Mutual {
        authority: authority.certificate().to_owned(),
        server: authority.server("server", &[], Validity::Current).unwrap(),
        client: client.clone(),
    };
    let (plain, secure) = (free_address().unwrap(), free_address().unwrap());
    let metrics = format!("http://{plain},https://{secure}");
    let name = "taken-for";
    let etcd = member(name, &scratch).tls(&tls).set("listen-metrics-urls", metrics).start().unwrap();

    let (client_port, secure_url) = (etcd.endpoint().address(), format!("https://{secure}"));
    let client_url = etcd.endpoint().url();
    let (http_to_tls, tls_to_http) = (format!("http://{client_port}"), format!("https://{plain}"));
    let ca = authority.certificate().to_str().unwrap();
    let elsewhere = authority.named("elsewhere", &["10.9.9.9", "nowhere.example"]).unwrap();
    let of_stranger = stranger.client("of-stranger", Validity::Current).unwrap();
    let rejected =
        |pair: &Pair| format!("rejected the client certificate `{}`; see --cert", pair.certificate.display());
    let (rejects_elsewhere, rejects_stranger) = (rejected(&elsewhere), rejected(&of_stranger));
    let cases = [
        Failing {
            why: "plain HTTP to etcd's TLS port",
            flags: vec!["--endpoints", &http_to_tls],
            reason: "refused",
            sentence: "the server closed the connection without an answer; a TLS port does so, try https://",
        },
        Failing {
            why: "TLS to etcd's plain listener",
            flags: vec!["--endpoints", &tls_to_http],
            reason: "not_metrics",
            sentence: "the server does not speak TLS; is the endpoint http://?",
        },
        Failing {
            why: "a name that the certificate has not got",
            flags: vec!["--endpoints", &client_url, "--tls-server-name", "other.example"],
            reason: "tls_name",
            sentence: "it is not valid for the host of the endpoint; give an address",
        },
        Failing {
            why: "a client certificate for another address, on a metrics listener",
            flags: [vec!["--endpoints", &secure_url, "--cacert", ca], flags(&elsewhere)].concat(),
            reason: "tls_client_rejected",
            sentence: &rejects_elsewhere,
        },
        Failing {
            why: "a stranger's client certificate",
            flags: [vec!["--endpoints", &client_url], flags(&of_stranger)].concat(),
            reason: "tls_client_rejected",
            sentence: &rejects_stranger,
        },
        Failing {
            why: "no such name",
            flags: vec!["--endpoints", "http://no-such-host.invalid:2379"],
            reason: "dns",
            sentence: "http://no-such-host.invalid:2379: cannot resolve the name",
        },
        Failing {
            why: "an address that TCP cannot reach",
            flags: vec!["--endpoints", "http://255.255.255.255:2379"],
            reason: "refused",
            sentence: "its address is not reachable from here",
        },
    ];
    assert_all_reported(&scratch, name, &cases);

    // etcd reads its certificate for every new connection.
    for (pair, reason, sentence) in [
        (authority.named("named", &["etcd.example"]).unwrap(), "tls_name", "not valid for the host"),
        (
            authority.client("usage", Validity::Current).unwrap(),
            "tls_untrusted",
            "was not issued for servers",
        ),
    ] {
        fs::rename(&pair.certificate, &tls.server.certificate).unwrap();
        fs::rename(&pair.key, &tls.server.key).unwrap();
        let trusting = [vec!["--endpoints", &client_url, "--cacert", ca], flags(&client)].concat();
        let case = Failing {
            why: "a server's certificate that does not fit",
            flags: trusting.clone(),
            reason,
            sentence,
        };
        assert_all_reported(&scratch, name, &[case]);
        if reason == "tls_name" {
            let named = call(&scratch).arguments(&trusting).arguments(&["--tls-server-name", "etcd.example"]);
            wait_until_up(&named.run().unwrap(), name, "the name that the certificate has");
            let pinned = call(&scratch).arguments(&["--endpoints", &client_url]).arguments(&flags(&client));
            wait_until_up(&pinned.run().unwrap(), name, "etcd's own certificate needs no name");
        }
    }
}

#[test]
fn invalid_answers_are_distinguished() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("fetch").unwrap();
    let name = "answered-for";
    let _etcd = member(name, &scratch).start().unwrap();
    let cases = [
        (Answer::Raw(b""), "refused", "the server closed the connection without an answer"),
        (Answer::Reset, "not_metrics", "the answer is truncated"),
        (
            Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n# HELP"),
            "not_metrics",
            "the answer is truncated",
        ),
        (Answer::Raw(SETTINGS), "not_metrics", "the answer is not HTTP/1.1"),
        (
            Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 1\r\n\r\nx"),
            "not_metrics",
            "its encoding `br` was not requested",
        ),
        (Answer::Status("415 Unsupported Media Type"), "http_status", "415; this port serves gRPC only"),
        (Answer::Status("302 Found"), "http_status", "302; redirects are not followed"),
        (Answer::EndlessHead, "too_large", "larger than 16384 bytes"),
    ];
    let servers = cases.map(|(answer, _, _)| FakeEtcd::start(answer).unwrap());
    let urls = servers.each_ref().map(|server| format!("http://{}", server.address()));
    let whys = cases.map(|(answer, _, _)| format!("{answer:?}"));
    let all: Vec<_> = (cases.iter().zip(&urls).zip(&whys))
        .map(|(((_, reason, sentence), url), why)| Failing {
            why,
            flags: vec!["--endpoints", url],
            reason,
            sentence,
        })
        .collect();
    assert_all_reported(&scratch, name, &all);
}

#[test]
fn an_answer_without_end_ends_in_time_and_takes_no_memory() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("fetch").unwrap();
    let name = "endless";
    let _etcd = member(name, &scratch).start().unwrap();
    let usual = call(&scratch).run().unwrap();
    wait_until_up(&usual, name, "a plain answer");
    thread::sleep(Duration::from_secs(2));
    let usual_bytes = process::peak_resident_bytes(usual.pid()).unwrap();
    let cases = [
        (Answer::Bomb, "too_large", "larger than 4194304 bytes"),
        (Answer::Endless, "too_large", "larger than 4194304 bytes"),
        (Answer::Dripping, "timeout", "no answer within 1s"),
        (Answer::Nothing, "timeout", "no answer within 1s"),
    ];
    for (answer, reason, sentence) in cases {
        let server = FakeEtcd::start(answer).unwrap();
        let url = format!("http://{}", server.address());
        let since = Instant::now();
        let probe = call(&scratch).arguments(&["--endpoints", &url]).run().unwrap();
        assert_reported(
            &probe,
            name,
            &Failing { why: &format!("{answer:?}"), flags: Vec::new(), reason, sentence },
        );
        // Two scrapes have ended, otherwise it would not be reported. The test does not check how soon: that
        // depends on the load of the machine, while the probe uses its own clock.
        let took = since.elapsed();
        thread::sleep(Duration::from_secs(2).saturating_sub(took));
        let bytes = process::peak_resident_bytes(probe.pid()).unwrap();
        println!("{answer:?}: {} KiB at most, {} usually, after {took:?}", bytes >> 10, usual_bytes >> 10);
        assert!(bytes < usual_bytes + EXTRA_BYTES, "{answer:?}: {bytes} bytes, {usual_bytes} usually");
        assert!(probe.is_ready(), "{answer:?}: it measures all the while");
    }
}

/// Returns the first endpoint at which a member's metrics are requested.
fn endpoint_of(probe: &Probe, name: &str) -> Value {
    let report: Value = serde_json::from_str(&probe.get("/api/v1/report").unwrap().text().unwrap()).unwrap();
    let mut members = report["members"].as_array().expect("members are a list").iter();
    members.find(|member| member["member"] == name).unwrap_or_else(|| panic!("{report:#}"))["endpoint"]
        .clone()
}

/// Returns the days until each certificate expires, by the label `certificate`.
fn days(metrics: &Metrics, member: &str) -> [Option<i64>; 3] {
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    ["ca", "server", "client"].map(|certificate| {
        let labels = [("member", member), ("certificate", certificate)];
        let end_s = metrics.value("etcd_disk_probe_etcd_certificate_expiry_timestamp_seconds", &labels)?;
        #[expect(clippy::cast_possible_truncation, reason = "some hundred days")]
        let days = ((end_s - now_s) / 86_400.0) as i64;
        Some(days)
    })
}

/// Waits until the certificates expire in this many whole days.
fn wait_for_days(probe: &Probe, member: &str, expected: [i64; 3], why: &str) {
    let expected = expected.map(Some);
    let found = Cancel::default()
        .wait_for(Duration::from_mins(1), || Ok((days(&probe.metrics()?, member) == expected).then_some(())));
    let now = || days(&probe.metrics().unwrap(), member);
    assert!(found.unwrap().is_some(), "{why}: {:?}, and not {expected:?}", now());
}

#[test]
fn etcd_is_scraped_over_ipv6_with_its_certificates_reported() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("fetch").unwrap();
    let authority = Authority::create(scratch.path(), "ca").unwrap();
    let tls = Mutual {
        authority: authority.certificate().to_owned(),
        server: authority.server("server", &["::1"], Validity::Ending).unwrap(),
        client: authority.client("client", Validity::Current).unwrap(),
    };
    let name = "over-ipv6";
    let [plain, secure] =
        ["http", "https"].map(|scheme| format!("{scheme}://[::1]:{}", free_address().unwrap().port()));
    let member = member(name, &scratch).tls(&tls).set("listen-metrics-urls", format!("{plain},{secure}"));
    let _etcd: Etcd = member.start().unwrap();

    let found = call(&scratch).run().unwrap();
    wait_until_up(&found, name, "the plain listener");
    assert_eq!(endpoint_of(&found, name), plain, "the simplest one is asked");
    wait_for_days(
        &found,
        name,
        [365, 10, 10],
        "the certificates of the client port, although the probe does not use it",
    );
    let log = found.log().unwrap();
    let warnings: Vec<_> =
        log.lines().filter(|line| line.contains("renew it soon") && line.contains(name)).collect();
    assert_eq!(warnings.len(), 2, "the server's and ours, each once: {log}");
    assert!(
        warnings[0].contains("etcd's server certificate expires on ") && warnings[0].contains(", in 10 days"),
        "{warnings:?}"
    );

    let ca = authority.certificate().to_str().unwrap();
    let given = call(&scratch).arguments(&["--endpoints", &secure, "--cacert", ca]).run().unwrap();
    wait_until_up(&given, name, "the secure listener, by its address");
    wait_for_days(&given, name, [365, 10, 10], "the one that was presented");
}
