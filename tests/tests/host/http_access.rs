//! HTTP access control: anonymous and malicious clients on every route, and clients with a certificate or a
//! password.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use probe_tests::etcd::certs::{Authority, Mutual, Pair, Validity};
use probe_tests::etcd::{self, Member};
use probe_tests::faults::evidence::{Stopwatch, Ticker};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::raw_http::RawClient;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::{self, Invocation, Probe};
use probe_user::server;

/// The probe detects a change within a second.
const SEEN: Duration = Duration::from_mins(1);

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

const ODD_PATHS: [&str; 9] = [
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//metrics",
    "/metrics/",
    "/metrics/../api/v1/report",
    "/api/v1/report?verbose=1",
    "/debug/pprof",
    "/-/quit",
    "http://elsewhere/metrics",
];

fn call(scratch: &Scratch) -> Invocation {
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path());
    call.arguments(&["--scrape-interval", "200ms"])
}

/// Starts the probe with this web configuration in a file of the scratch directory.
fn launch(scratch: &Scratch, web_config: &str) -> Probe {
    let file = scratch.path().join("web.yml");
    fs::write(&file, web_config).unwrap();
    call(scratch).arguments(&["--web.config.file", file.to_str().unwrap()]).launch().unwrap()
}

fn within<T>(limit: Duration, what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> T {
    Cancel::default().wait_for(limit, look).unwrap().unwrap_or_else(|| panic!("{what}, after {limit:?}"))
}

/// Waits until the probe answers this client with a 200.
fn wait_until_served(client: &RawClient, headers: &str) {
    within(Duration::from_mins(1), "it does not answer", || {
        let answer = client.request("GET", "/-/ready", headers);
        Ok(answer.ok().filter(|answer| answer.status == 200))
    });
}

fn users(user: &str, password: &str) -> String {
    format!("basic_auth_users:\n  {user}: {}\n", bcrypt::hash(password, 10).unwrap())
}

fn basic(user_and_password: &str) -> String {
    format!("authorization: Basic {}\r\n", BASE64_STANDARD.encode(user_and_password))
}

fn tls_of(pair: &Pair, more: &str) -> String {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let (certificate, key) = (name(&pair.certificate), name(&pair.key));
    format!("tls_server_config:\n  cert_file: {certificate}\n  key_file: {key}\n{more}")
}

/// Returns the result of the last load of the web configuration from the metrics.
fn reload_success(client: &RawClient, headers: &str) -> Option<String> {
    let answer = client.request("GET", "/metrics", headers).ok()?;
    let mut lines = answer.body.lines();
    lines.find_map(|line| line.strip_prefix("etcd_disk_probe_web_config_reload_success ")).map(str::to_owned)
}

#[test]
fn an_anonymous_client_learns_nothing_on_any_route() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("stranger").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let name = "locked-away";
    let _etcd = Member::new(&etcd::find("3.5.16").unwrap(), name, scratch.path()).tls(&tls).start().unwrap();
    let headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n";
    let probe =
        launch(&scratch, &format!("{}{headers}{}", tls_of(&tls.server, ""), users("alice", "wonderland")));
    let client = RawClient::tls(probe.endpoint().address(), &tls.authority, None).unwrap();
    let alice = basic("alice:wonderland");
    wait_until_served(&client, &alice);

    let strangers = [
        ("", "anonymous"),
        (&basic("alice:wrong"), "a wrong password"),
        (&basic("bob:wonderland"), "an unknown user"),
        ("authorization: Bearer x\r\n", "another scheme"),
    ];
    let long = format!("/{}", "x".repeat(8_000));
    let mut paths: Vec<&str> = server::paths().chain(ODD_PATHS).collect();
    paths.push(&long);
    assert!(paths.contains(&"/metrics") && paths.contains(&"/-/healthy"), "{paths:?}");
    for (authorization, who) in strangers {
        // Verifying wrong passwords is slow, so those cases try only a few paths.
        let methods = if authorization.is_empty() { &METHODS[..] } else { &METHODS[..1] };
        for path in &paths {
            for method in methods {
                let answer = client.request(method, path, authorization).unwrap();
                let body = if *method == "HEAD" { "" } else { "Unauthorized\n" };
                assert_eq!((answer.status, answer.body.as_str()), (401, body), "{who}: {method} {path}");
                assert!(answer.head.contains("www-authenticate: basic"), "{who}: {}", answer.head);
                assert!(answer.head.contains("x-frame-options: deny"), "{who}: {}", answer.head);
            }
        }
    }
    for path in server::paths() {
        let answer = client.request("GET", path, &alice).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let found = within(SEEN, "the member is not there", || {
        let report = client.request("GET", "/api/v1/report", &alice)?.body;
        Ok(report.contains(name).then_some(report))
    });
    assert!(found.contains("\"verdict\""), "{found}");
    assert!(
        RawClient::plain(probe.endpoint().address()).request("GET", "/metrics", &alice).is_err(),
        "without TLS"
    );
}

#[test]
fn no_answer_names_a_key_though_the_log_does() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("stranger").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let name = "keyless";
    let _etcd = Member::new(&etcd::find("3.5.16").unwrap(), name, scratch.path()).tls(&tls).start().unwrap();
    let key = scratch.path().join("broken-key.pem");
    let secret = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC";
    fs::write(&key, format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n")).unwrap();
    let flags = ["--cert", tls.client.certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let probe = call(&scratch).arguments(&flags).run().unwrap();
    let client = RawClient::plain(probe.endpoint().address());
    let report = within(Duration::from_mins(1), "it does not report the error", || {
        let report: serde_json::Value =
            serde_json::from_str(&client.request("GET", "/api/v1/report", "")?.body)?;
        let mut members = report["members"].as_array().into_iter().flatten();
        let member = members.find(|member| member["member"] == name);
        Ok(member
            .filter(|member| member["reason"].as_str().is_some_and(|why| why.contains("key file")))
            .cloned())
    });
    assert!(!report["reason"].as_str().unwrap().contains(scratch.path().to_str().unwrap()), "{report:#}");
    let log = probe.log().unwrap();
    assert!(log.contains(key.to_str().unwrap()), "the log names the file for the operator: {log}");
    assert!(!log.contains(secret), "but not its content: {log}");

    let paths: Vec<_> = server::paths().chain(ODD_PATHS).collect();
    for path in paths {
        for method in METHODS {
            let answer = client.request(method, path, "accept: application/openmetrics-text\r\n").unwrap();
            let known = server::paths().any(|route| route == path);
            let reads = matches!(method, "GET" | "HEAD");
            match (known, reads) {
                (true, true) => assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body),
                (true, false) => assert_eq!(answer.status, 405, "{method} {path}"),
                (false, _) => assert!([200, 404, 405].contains(&answer.status), "{method} {path}"),
            }
            let text = format!("{}{}", answer.head, answer.body);
            let secrets = [
                key.to_str().unwrap(),
                "broken-key",
                tls.server.key.to_str().unwrap(),
                secret,
                "PRIVATE KEY",
            ];
            for secret in secrets {
                assert!(!text.contains(secret), "{method} {path} reveals {secret}: {text}");
            }
        }
    }
}

#[test]
fn client_certificates_are_requested_and_verified() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("stranger").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let authority = Authority::create(scratch.path(), "clients").unwrap();
    let named = authority.server("prometheus", &["prometheus.local"], Validity::Current).unwrap();
    let nameless = authority.client("nameless", Validity::Current).unwrap();
    let expired = authority.server("late", &["prometheus.local"], Validity::Expired).unwrap();
    let foreign = Authority::create(scratch.path(), "others").unwrap();
    let foreign = foreign.server("foreign", &["prometheus.local"], Validity::Current).unwrap();
    let config = |kind: &str, more: &str| tls_of(&tls.server, &format!("  client_auth_type: {kind}\n{more}"));
    let clients = "  client_ca_file: clients.pem\n";
    let sans = "  client_ca_file: clients.pem\n  client_allowed_sans: [prometheus.local]\n";
    // Which clients are admitted: without a certificate, with the name, without the name, expired, of a
    // foreign authority.
    let cases = [
        (config("NoClientCert", ""), [true, true, true, true, true], "no certificate is requested"),
        (config("RequestClientCert", ""), [true, true, true, true, true], "any certificate is accepted"),
        (config("RequireAnyClientCert", ""), [false, true, true, true, true], "any is taken"),
        (
            config("VerifyClientCertIfGiven", clients),
            [true, true, true, false, false],
            "a presented certificate is verified",
        ),
        (config("RequireAndVerifyClientCert", clients), [false, true, true, false, false], "one is needed"),
        (config("RequireAndVerifyClientCert", sans), [false, true, false, false, false], "with this name"),
    ];
    let probe = launch(&scratch, &cases[0].0);
    let address = probe.endpoint().address();
    let client = |client: Option<&Pair>| RawClient::tls(address, &tls.authority, client).unwrap();
    let clients = [None, Some(&named), Some(&nameless), Some(&expired), Some(&foreign)].map(client);
    wait_until_served(&clients[1], "");
    for (config, expected, why) in cases {
        fs::write(scratch.path().join("web.yml"), config).unwrap();
        let let_in = || clients.each_ref().map(|client| client.request("GET", "/-/healthy", "").is_ok());
        let seen = Cancel::default().wait_for(SEEN, || Ok((let_in() == expected).then_some(()))).unwrap();
        assert!(seen.is_some(), "{why}: {:?} get in, {expected:?} expected", let_in());
        assert_eq!(reload_success(&clients[1], "").as_deref(), Some("1.0"), "{why}");
    }
}

#[test]
fn valid_changes_take_effect_and_broken_ones_do_not() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("stranger").unwrap();
    // The layout of a Kubernetes secret: the files are links through `..data`, which is swapped.
    let make = |version: &str| {
        let directory = scratch.path().join(version);
        fs::create_dir(&directory).unwrap();
        Mutual::create(&directory).unwrap()
    };
    let (first, second) = (make("first"), make("second"));
    let swap = |version: &str| {
        let link = scratch.path().join("..data.tmp");
        symlink(version, &link).unwrap();
        fs::rename(&link, scratch.path().join("..data")).unwrap();
    };
    swap("first");
    let tls = "tls_server_config:\n  cert_file: ..data/server.pem\n  key_file: ..data/server-key.pem\n";
    let whole = format!("{tls}{}", users("alice", "wonderland"));
    let probe = launch(&scratch, &whole);
    let address = probe.endpoint().address();
    let client = |tls: &Mutual| RawClient::tls(address, &tls.authority, None).unwrap();
    let (before, after) = (client(&first), client(&second));
    let alice = basic("alice:wonderland");
    wait_until_served(&before, &alice);
    assert!(after.request("GET", "/metrics", &alice).is_err(), "its authority has signed nothing yet");

    // A connection ends no later than the client certificate that it was authenticated with.
    let mut kept = before.connect().unwrap();
    let request = format!("GET /-/healthy HTTP/1.1\r\nhost: probe\r\n{alice}\r\n");
    kept.write_all(request.as_bytes()).unwrap();
    assert!(kept.read(&mut [0; 1024]).unwrap() > 0);

    swap("second");
    wait_until_served(&after, &alice);
    assert!(before.request("GET", "/metrics", &alice).is_err(), "the old certificate is gone");
    assert!(!matches!(kept.read(&mut [0; 1024]), Ok(1..)), "so are connections that it made");
    assert_eq!(reload_success(&after, &alice).as_deref(), Some("1.0"));

    let file = scratch.path().join("web.yml");
    let breakages = [
        (whole.replace("cert_file", "certificate"), "unknown key `tls_server_config.certificate`"),
        (whole.replace("..data/server.pem", "nowhere.pem"), "nowhere.pem"),
        (tls.to_owned(), "drops passwords"),
        (String::new(), "drops TLS"),
    ];
    for (broken, sentence) in breakages {
        fs::write(&file, &broken).unwrap();
        within(SEEN, sentence, || {
            Ok((reload_success(&after, &alice).as_deref() == Some("0.0")).then_some(()))
        });
        assert_eq!(after.request("GET", "/metrics", "").unwrap().status, 401, "{sentence}: still locked");
        let reports = |log: &str| log.lines().filter(|line| line.contains(sentence)).count();
        let log = probe.log().unwrap();
        assert_eq!(reports(&log), 1, "{sentence}: {log}");
        fs::write(&file, &whole).unwrap();
        within(SEEN, "mended", || {
            Ok((reload_success(&after, &alice).as_deref() == Some("1.0")).then_some(()))
        });
        assert_eq!(reports(&probe.log().unwrap()), 1, "{sentence}: reported once");
    }
    let http2 = || after.protocol(&[b"h2", b"http/1.1"]).unwrap();
    assert_eq!(http2().as_deref(), Some(&b"h2"[..]));
    fs::write(&file, format!("{whole}http_server_config: {{http2: false}}\n")).unwrap();
    within(SEEN, "without HTTP/2", || Ok((http2().as_deref() == Some(b"http/1.1")).then_some(())));
    // A new password is effective at once, and the cached one is not accepted any more.
    fs::write(&file, format!("{tls}{}", users("alice", "through the looking-glass"))).unwrap();
    wait_until_served(&after, &basic("alice:through the looking-glass"));
    assert_eq!(after.request("GET", "/metrics", &alice).unwrap().status, 401, "the old password");
    let log = probe.log().unwrap();
    assert!(!log.contains("$2") && !log.contains("wonderland"), "no hash and no password: {log}");
}

#[test]
fn a_thousand_idle_connections_and_slow_ones_do_not_stop_a_scrape() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("stranger").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    for web_config in [String::new(), tls_of(&tls.server, "")] {
        let probe = launch(&scratch, &web_config);
        let address = probe.endpoint().address();
        let client = if web_config.is_empty() {
            RawClient::plain(address)
        } else {
            RawClient::tls(address, &tls.authority, None).unwrap()
        };
        wait_until_served(&client, "");
        let mut idle: Vec<TcpStream> = Vec::new();
        for _ in 0..1_000 {
            idle.push(TcpStream::connect(address).unwrap());
        }
        let started = Stopwatch::start();
        let answer = client.request("GET", "/metrics", "").unwrap();
        assert_eq!(answer.status, 200);
        let took = started.stop();
        println!("scraped in {took} next to {} idle connections", idle.len());
        assert!(took.when_idle() < Duration::from_secs(1), "after {took}");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", probe.pid())).unwrap().count();
        assert!(descriptors < 400, "{descriptors} descriptors are open");

        // A head, or a handshake, that arrives byte by byte is cut off after five seconds.
        let mut slow = idle.pop().unwrap();
        let started = Instant::now();
        let first: &[u8] =
            if web_config.is_empty() { b"GET / HTTP/1.1\r\nx: " } else { b"\x16\x03\x01\x02\x00\x01" };
        let mut slow_write = |bytes: &[u8]| slow.write_all(bytes);
        let mut outcome = slow_write(first);
        while outcome.is_ok() && started.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(200));
            outcome = slow_write(b"y");
        }
        println!("a slow client was cut off after {:?}", started.elapsed());
        assert!(outcome.is_err(), "it may go on after {:?}", started.elapsed());
    }
}

#[test]
fn a_flood_of_wrong_passwords_delays_no_known_client() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("stranger").unwrap();
    let probe = launch(&scratch, &users("alice", "wonderland"));
    let client = RawClient::plain(probe.endpoint().address());
    let alice = basic("alice:wonderland");
    wait_until_served(&client, &alice);
    let stop = Cancel::default();
    let flood: Vec<_> = (0..20)
        .map(|number| {
            let (stop, client) = (stop.clone(), client.clone());
            std::thread::spawn(move || {
                let mut statuses = Vec::new();
                while !stop.is_cancelled() {
                    let wrong = basic(&format!("user-{number}:{}", statuses.len()));
                    statuses.push(client.request("GET", "/metrics", &wrong).unwrap().status);
                }
                statuses
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    let ticker = Ticker::start();
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(client.request("GET", "/metrics", &alice).unwrap().status, 200);
        slowest = slowest.max(started.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    let lateness = ticker.stop();
    stop.cancel();
    let statuses: Vec<u16> = flood.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let count = |status: u16| statuses.iter().filter(|other| **other == status).count();
    println!("slowest scrape {slowest:?}; {lateness}; {} wrong, {} turned away", count(401), count(429));
    // The flood keeps every CPU busy: the machine's own delay is no delay of the client.
    assert!(slowest < Duration::from_secs(1) + lateness.total, "a scrape took {slowest:?}; {lateness}");
    assert!(count(401) > 0 && count(429) > 0 && count(401) + count(429) == statuses.len());
}

#[test]
fn a_web_configuration_that_cannot_be_used_stops_the_start() {
    requirements::require(&[Need::Root]);
    let scratch = Scratch::on_disk("stranger").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let other = Authority::create(scratch.path(), "others").unwrap();
    let other = other.server("other", &[], Validity::Current).unwrap();
    let mixed = Pair { certificate: tls.server.certificate.clone(), key: other.key };
    let cases = [
        (Some("nonsense: 1\n".to_owned()), 64, "unknown key `nonsense`", "an unknown key"),
        (Some(tls_of(&tls.server, "  min_version: TLS10\n")), 64, "min_version", "unsupported by rustls"),
        (Some(tls_of(&mixed, "")), 64, "belongs to another certificate", "a key of another certificate"),
        (
            Some("tls_server_config: {cert_file: a, key_file: b}".to_owned()),
            66,
            "/a` of",
            "no such certificate",
        ),
        (None, 66, "of --web.config.file", "no such file"),
    ];
    for (web_config, code, part, why) in cases {
        let file = scratch.path().join("web.yml");
        match web_config {
            Some(web_config) => fs::write(&file, web_config).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let flags = ["--web.config.file", file.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let finished = call(&scratch).arguments(&flags).start("run").unwrap();
        let finished = finished.wait(Duration::from_mins(1)).unwrap();
        assert_eq!(finished.code, Some(code), "{why}: {}", finished.stderr);
        assert!(finished.stderr.contains(part), "{why}: {}", finished.stderr);
        assert_eq!(finished.stderr.trim().lines().count(), 1, "{why}: one sentence: {}", finished.stderr);
    }
}
