//! The probe's HTTP server, its exit, and the output of `check`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use probe_tests::etcd::certs::Mutual;
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::faults::evidence::Stopwatch;
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::Endpoint;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::crosscheck;
use probe_tests::probe::loaded_programs;
use probe_tests::probe::{self, Invocation};
use serde_json::Value;

/// Seven hundred syncs at most.
const SOME: Load =
    Load { amount: Amount::Puts(700), connections: 1, value_bytes: 512, keys: 100, tolerant: false };

fn call(scratch: &Scratch) -> Invocation {
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path());
    call.arguments(&["--scrape-interval", "200ms"])
}

fn start_etcd(version: &str, name: &str, scratch: &Scratch) -> Etcd {
    let tls = Mutual::create(scratch.path()).unwrap();
    Member::new(&etcd::find(version).unwrap(), name, scratch.path()).tls(&tls).start().unwrap()
}

/// Requests as a client that accepts one media type, or any; returns head and body.
fn ask(endpoint: &Endpoint, path: &str, accept: Option<&str>) -> (String, String) {
    let mut stream = TcpStream::connect(endpoint.address()).unwrap();
    let accept = accept.map_or_else(String::new, |accept| format!("accept: {accept}\r\n"));
    let request = format!("GET {path} HTTP/1.1\r\nhost: probe\r\n{accept}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head ends with an empty line");
    (head.to_lowercase(), body.to_owned())
}

/// Returns the report on a member.
fn member_of<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut members = report["members"].as_array().expect("members are a list").iter();
    members.find(|member| member["member"] == name).unwrap_or_else(|| panic!("{name} is not in {report:#}"))
}

#[test]
fn every_page_is_served_to_every_client() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("service").unwrap();
    let probe = call(&scratch).run().unwrap();
    let etcd = start_etcd("3.5.16", "served", &scratch);
    SOME.start(etcd.endpoint()).wait().unwrap();
    crosscheck::settle(&probe, "served").unwrap();

    let endpoint = probe.endpoint();
    let open_metrics = Some("application/openmetrics-text; version=1.0.0");
    let cases = [
        ("/-/healthy", None, 200, "text/plain", "healthy", "\n"),
        ("/healthz", None, 200, "text/plain", "healthy", "\n"),
        ("/-/ready", None, 200, "text/plain", "ready", "\n"),
        ("/", None, 200, "text/html", "href=\"/metrics\"", ""),
        ("/api/v1/report", None, 200, "application/json", "\"member\":\"served\"", "}"),
        ("/metrics", None, 200, "text/plain; version=0.0.4", "etcd_disk_probe_build_info{", "\n"),
        ("/metrics", open_metrics, 200, "application/openmetrics-text; version=1.0.0", "_info{", "\n# EOF\n"),
        ("/nowhere", None, 404, "", "", ""),
    ];
    for (path, accept, status, media, part, end) in cases {
        let (head, body) = ask(&endpoint, path, accept);
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path}: {head}");
        assert!(status != 200 || head.contains(&format!("content-type: {media}")), "{path}: {head}");
        assert!(body.contains(part) && body.ends_with(end), "{path} {accept:?}: {body}");
    }
    let (_, text) = ask(&endpoint, "/metrics", None);
    assert!(!text.contains("# EOF"), "the older format has no end");

    let report: Value = serde_json::from_str(&ask(&endpoint, "/api/v1/report", None).1).unwrap();
    let member = member_of(&report, "served");
    assert_eq!(member["pid"], etcd.pid());
    assert_eq!(member["version"], "3.5.16");
    assert_eq!(member["endpoint"], etcd.endpoint().url());
    assert_eq!(member["data_dir"], etcd.data_dir().display().to_string());
}

#[test]
fn nothing_stays_attached_however_it_ends() {
    requirements::require(&[Need::Root, Need::Bpf]);
    for (killed, why) in [(false, "SIGTERM"), (true, "SIGKILL")] {
        let scratch = Scratch::on_disk("service").unwrap();
        let probe = call(&scratch).run().unwrap();
        let held = loaded_programs::of(probe.pid());
        assert!(
            held.is_subset(&loaded_programs::loaded().unwrap()) && !held.is_empty(),
            "{why}: it is attached"
        );
        // Open connections must not delay its exit: one after an answer, one without a request.
        let mut answered = TcpStream::connect(probe.endpoint().address()).unwrap();
        answered.write_all(b"GET /healthz HTTP/1.1\r\nhost: probe\r\n\r\n").unwrap();
        assert!(answered.read(&mut [0; 1024]).unwrap() > 0);
        let _silent = TcpStream::connect(probe.endpoint().address()).unwrap();

        let since = Stopwatch::start();
        if killed {
            probe.kill9().unwrap();
        } else {
            let status = probe.stop().unwrap();
            assert_eq!(status.code(), Some(0), "{why}: ended by {status}");
            let took = since.stop();
            println!("{why}: ended after {took}");
            assert!(took.when_idle() < Duration::from_secs(3), "{why}: after {took}");
        }
        let gone = Cancel::default().wait_for(Duration::from_secs(30), || {
            Ok(loaded_programs::loaded()?.is_disjoint(&held).then_some(()))
        });
        assert!(gone.unwrap().is_some(), "{why}: {held:?} are not all gone");
    }
}

/// Returns the exit code that a report implies: 1 if any member is unhealthy, 2 if any cannot be judged.
fn exit_code_of(report: &Value) -> i32 {
    let members = report["members"].as_array().expect("members are a list");
    let verdicts: Vec<_> = members.iter().filter_map(|member| member["verdict"].as_str()).collect();
    assert_eq!(verdicts.len(), members.len(), "every member has a verdict: {report:#}");
    let unknown = ["too_few_samples", "endpoint_mismatch", "blind"];
    let is_unhealthy = |verdict: &str| verdict != "healthy" && !unknown.contains(&verdict);
    if verdicts.iter().any(|verdict| is_unhealthy(verdict)) {
        1
    } else if !verdicts.is_empty() && verdicts.iter().all(|&verdict| verdict == "healthy") {
        0
    } else {
        2
    }
}

#[test]
fn check_reports_on_an_etcd_under_load() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    for (version, name) in [("3.4", "checked-34"), ("3.5.16", "checked-35")] {
        let scratch = Scratch::on_disk("service").unwrap();
        let etcd = start_etcd(version, name, &scratch);
        let load = Load { amount: Amount::UntilStopped, ..SOME }.start(etcd.endpoint());
        let check =
            call(&scratch).arguments(&["--duration", "5s", "--output", "json"]).start("check").unwrap();
        let finished = check.wait(Duration::from_mins(1)).unwrap();
        let done = load.stop().unwrap();

        let report = finished.json().unwrap();
        assert_eq!(report["schema"], 2);
        assert_eq!(finished.code, Some(exit_code_of(&report)), "{report:#}");
        let member = member_of(&report, name);
        println!("{name}: {} ({})", member["verdict"], member["reason"]);
        assert_eq!(member["pid"], etcd.pid());
        assert!(member["window_s"].as_f64().is_some_and(|window_s| window_s > 4.0), "{member:#}");
        let figures = member["figures"].as_array().expect("figures are a list");
        assert_eq!(figures.len(), 2);
        for figure in figures {
            let crosscheck = &figure["crosscheck"];
            assert_eq!(
                (&crosscheck["difference"], &crosscheck["violations"]),
                (&0.into(), &0.into()),
                "{member:#}"
            );
            assert!(figure["kernel"]["count"].as_u64() > Some(10), "{member:#}");
            assert!(figure["kernel"]["p99_s"].as_f64() >= figure["kernel"]["p50_s"].as_f64(), "{member:#}");
        }
        let syncs = figures[0]["kernel"]["count"].as_u64().unwrap_or(0);
        assert!(syncs > 100 && syncs <= done.puts + 100, "a sync a put: {syncs} of {done:?}");
    }
}
