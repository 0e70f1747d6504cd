//! etcd's own metrics, re-exported by the probe: byte for byte as etcd exports them, and sufficient for a
//! Prometheus without a client key for etcd.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use probe_tests::etcd::certs::{Mutual, Pair};
use probe_tests::etcd::cluster;
use probe_tests::etcd::hostile::Hostile;
use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::faults::attempts::{ATTEMPTS, attempts};
use probe_tests::faults::evidence::{Lateness, Ticker};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::Endpoint;
use probe_tests::machine::process;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::observability::prometheus::{self, Element, Prometheus, Target};
use probe_tests::probe::exposition::Page;
use probe_tests::probe::metrics::Metrics;
use probe_tests::probe::{self, Invocation, Probe};
use rustix::process::Signal;

/// Every family of the default allow-list, as etcd 3.5.14 and newer export them, by name.
const FAMILIES: [&str; 26] = [
    "etcd_cluster_version",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_backend_defrag_duration_seconds",
    "etcd_disk_backend_snapshot_duration_seconds",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_wal_write_bytes_total",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_version",
    "etcd_snap_db_fsync_duration_seconds",
    "etcd_snap_db_save_total_duration_seconds",
    "etcd_snap_fsync_duration_seconds",
    "process_start_time_seconds",
];

/// Families whose values may rise and fall between two readings.
const RESTLESS: [&str; 3] = [
    "etcd_server_proposals_pending",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
];

/// All complaints of `promtool`: etcd's own names, which docs/etcd-metrics.md lists.
const EXCEPTIONS: [&str; 3] = [
    "etcd_disk_wal_write_bytes_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
];

const ROUND_TRIPS: &str = "etcd_network_peer_round_trip_time_seconds_count";

/// The user that may access the probe.
const USER: &str = "prometheus";
const PASSWORD: &str = "none of etcd's keys";

/// The time limit for the probe to discover a member and scrape it.
const FOUND_WITHIN: Duration = Duration::from_mins(1);

/// Small puts, one after the other.
const LIGHT: Load =
    Load { amount: Amount::UntilStopped, connections: 1, value_bytes: 100, keys: 100, tolerant: false };

struct Setting {
    probe: Probe,
    members: Vec<Etcd>,
    _scratch: Scratch,
}

/// Starts a cluster of three and one probe, without any configuration about it.
fn start(name: &str) -> (Setting, std::path::PathBuf) {
    let scratch = Scratch::on_disk(name).unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let name = format!("{name}-{}", std::process::id());
    let members = cluster::start(&etcd::find("3.5").unwrap(), &name, scratch.path(), &tls).unwrap();
    let probe = launch(scratch.path(), &tls).ready().unwrap();
    for member in &members {
        let found = Cancel::default()
            .wait_for(FOUND_WITHIN, || Ok((up(&probe.metrics()?, member.name()) == Some(1.0)).then_some(())));
        assert!(found.unwrap().is_some(), "{} is found: {}", member.name(), probe.log().unwrap());
    }
    let path = scratch.path().to_owned();
    (Setting { probe, members, _scratch: scratch }, path)
}

/// Starts the probe behind TLS and a password.
fn launch(directory: &Path, tls: &Mutual) -> Probe {
    let file = directory.join("web.yml");
    let hash = bcrypt::hash(PASSWORD, 10).unwrap();
    let Pair { certificate, key } = &tls.server;
    let text = format!(
        "tls_server_config:\n  cert_file: {}\n  key_file: {}\nbasic_auth_users:\n  {USER}: {hash}\n",
        certificate.display(),
        key.display()
    );
    fs::write(&file, text).unwrap();
    let call = Invocation::new(&probe::binary().unwrap(), directory);
    let call = call.arguments(&["--max-members", "64", "--web.config.file", file.to_str().unwrap()]);
    let probe = call.launch().unwrap();
    let endpoint = Endpoint::tls(probe.endpoint().address(), &tls.authority, &tls.client).unwrap();
    probe.reached_by(endpoint.as_user(USER, PASSWORD))
}

/// Waits until etcd exports the round trip to its peers, after it has first measured it: after 5 s, or 30.
fn wait_for_peers(setting: &Setting) {
    for etcd in &setting.members {
        let probed = Cancel::default().wait_for(Duration::from_mins(6), || {
            let peers = own_page(etcd).samples.into_keys().filter(|series| series.starts_with(ROUND_TRIPS));
            Ok((peers.count() == 2).then_some(()))
        });
        assert!(probed.unwrap().is_some(), "{} has two peers", etcd.name());
    }
}

fn up(metrics: &Metrics, member: &str) -> Option<f64> {
    metrics.value("etcd_disk_probe_etcd_up", &[("member", member)])
}

fn is_reexported(family: &str) -> bool {
    FAMILIES.contains(&family)
}

fn own_page(etcd: &Etcd) -> Page {
    Page::of(&etcd.endpoint().get("/metrics").unwrap().text().unwrap(), is_reexported)
}

/// Reads a member's own page, the probe's text, and the own page again, so that the probe's copy was made in
/// between.
fn sandwich(setting: &Setting, etcd: &Etcd) -> (Page, String, Page) {
    let name = "etcd_disk_probe_etcd_scrape_age_seconds";
    for _ in 0..20 {
        let before = own_page(etcd);
        let read = Instant::now();
        // A copy from before that would still be fresh.
        thread::sleep(Duration::from_millis(1_050));
        let youngest_s = read.elapsed().as_secs_f64();
        let text = setting.probe.get("/metrics").unwrap().text().unwrap();
        let age_s = Metrics::parse(&text).unwrap().value(name, &[("member", etcd.name())]);
        if age_s.is_some_and(|age_s| age_s < youngest_s) {
            return (before, text, own_page(etcd));
        }
    }
    panic!("{} is not scraped again: {}", etcd.name(), setting.probe.log().unwrap());
}

/// Returns the series that only one of the two has.
fn difference<'a>(one: &'a BTreeMap<String, String>, other: &'a BTreeMap<String, String>) -> Vec<&'a str> {
    let only = |series: &&String| one.contains_key(*series) != other.contains_key(*series);
    one.keys().chain(other.keys()).filter(only).map(String::as_str).collect()
}

/// Asserts that the probe's value of every series is etcd's own at that moment.
fn assert_between(etcd: &Etcd, (before, text, after): &(Page, String, Page), at_rest: bool) {
    let reexported = Page::of(text, is_reexported).of_member(etcd.name());
    assert_eq!(difference(&reexported, &after.samples), Vec::<&str>::new(), "{}: and none else", etcd.name());
    assert_eq!(difference(&before.samples, &after.samples), Vec::<&str>::new(), "{}: no more", etcd.name());
    let mut moved = 0;
    for (series, value) in &reexported {
        let [low, now, high] =
            [&before.samples[series], value, &after.samples[series]].map(|text| text.parse::<f64>().unwrap());
        if !at_rest && RESTLESS.iter().any(|family| series == family) {
            assert!(now.is_finite(), "{series} is a number");
            continue;
        }
        let range = low.min(high)..=low.max(high);
        assert!(range.contains(&now), "{}: {series} is {now}, etcd's own {range:?}", etcd.name());
        // Byte for byte: if etcd wrote the same text before and after, the re-exported text is the same.
        if before.samples[series] == after.samples[series] {
            assert_eq!(value, &after.samples[series], "{}: {series}", etcd.name());
        } else {
            moved += 1;
        }
    }
    println!("{}: {} series, {moved} moved between two readings", etcd.name(), reexported.len());
    assert!(at_rest || moved >= 10, "{}: the load shows: {moved}", etcd.name());
}

#[test]
fn every_allowed_series_is_etcds_own_and_nothing_else_leaks() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5"), Need::Prometheus]);
    let (setting, _) = start("reexport");
    wait_for_peers(&setting);
    let load = LIGHT.start(setting.members[0].endpoint());
    for _ in 0..2 {
        for etcd in &setting.members {
            assert_between(etcd, &sandwich(&setting, etcd), false);
        }
    }
    println!("{:?}", load.stop().unwrap());
    let mut last = String::new();
    for etcd in &setting.members {
        let page = sandwich(&setting, etcd);
        assert_between(etcd, &page, true);
        let reexported = Page::of(&page.1, is_reexported);
        assert_eq!(
            reexported.comments, page.0.comments,
            "types and help are etcd's own, once for all members"
        );
        assert_eq!(reexported.comments.len(), 2 * FAMILIES.len(), "{:?}", reexported.comments);
        last = page.1;
    }
    let others = Page::of(&last, |family| !family.starts_with("etcd_disk_probe_") && !is_reexported(family));
    assert_eq!(others, Page::default(), "nothing else leaks");
    let misses = Metrics::parse(&last).unwrap();
    for reason in ["etcd_series_limit", "etcd_line_malformed", "etcd_series_duplicate", "etcd_type_conflict"]
    {
        let count = misses.expect("etcd_disk_probe_misses_total", &[("reason", reason)]);
        assert!(count.abs() < 0.5, "{count} of {reason}");
    }
    let documented = include_str!("../../../docs/etcd-metrics.md");
    assert!(EXCEPTIONS.iter().all(|name| documented.contains(&format!("`{name}`"))), "{EXCEPTIONS:?}");
    let expected =
        EXCEPTIONS.map(|name| format!("{name} non-counter metrics should not have \"_total\" suffix"));
    assert_eq!(
        prometheus::check_metrics(&last).unwrap(),
        expected,
        "etcd's own names, and none of the probe's"
    );
}

#[test]
fn concurrent_requests_share_one_scrape() {
    const REQUESTS: &str = "promhttp_metric_handler_requests_total";
    /// The probe serves 16 requests at a time.
    const MANY: usize = 12;
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.4"), Need::Tool("gzip", "gzip")]);
    let scratch = Scratch::on_disk("sharing").unwrap();
    // A proxy between etcd and the probe counts the probe's requests; etcd has a unique name, so that the
    // probe queries the proxy for this etcd only.
    let between = Hostile::start().unwrap();
    let name = format!("etcd-{}", std::process::id());
    let binary = scratch.path().join(&name);
    symlink(etcd::find("3.4").unwrap(), &binary).unwrap();
    let etcd = Member::new(&binary, &name, scratch.path()).start().unwrap();
    between.answer_for(etcd.endpoint());
    let (url, extended) = (between.url(), format!("+{REQUESTS}"));
    let arguments = ["--process-name", &name, "--endpoints", &url, "--etcd-metrics", &extended];
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path());
    let probe =
        call.arguments(&arguments).arguments(&["--scrape-interval", "1m", "--window", "1m"]).run().unwrap();
    let labels = [("member", name.as_str()), ("code", "200")];
    let found = Cancel::default().wait_for(FOUND_WITHIN, || Ok(probe.metrics()?.value(REQUESTS, &labels)));
    assert!(found.unwrap().is_some(), "the family of the flag is exported: {}", probe.log().unwrap());
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(1_100));
        let before = between.requests();
        let pages: Vec<_> = thread::scope(|scope| {
            let asking: Vec<_> = (0..MANY).map(|_| scope.spawn(|| probe.metrics().unwrap())).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(between.requests() - before, 1, "one for all");
        let mut copies: Vec<_> = pages.iter().map(|page| page.expect(REQUESTS, &labels).to_bits()).collect();
        copies.dedup();
        assert_eq!(copies.len(), 1, "all have the same: {copies:?}");
        assert!(pages.iter().all(|page| page.value("etcd_server_has_leader", &labels[..1]) == Some(1.0)));
    }
}

#[test]
fn a_hanging_etcd_costs_a_second_and_loses_its_series() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5")]);
    let (setting, _) = start("hanging");
    let hung = attempts("a_hanging_etcd_costs_a_second_and_loses_its_series", ATTEMPTS, |_| {
        let hung = hang(&setting);
        println!("{hung:?}");
        hung.lateness.small().judge(hung)
    });
    let mut times = hung.times;
    times.sort_unstable();
    let [.., second, slowest] = times[..] else { panic!("there are many requests: {times:?}") };
    assert!(second < Duration::from_millis(1_600), "a second and a little: {times:?}");
    assert!(slowest < Duration::from_secs(3), "{times:?}");
    // No copy was older than five seconds, by the probe's own clock.
    assert!(hung.served_until < Duration::from_secs(8), "served until {:?}", hung.served_until);
}

/// What the probe's page showed while an etcd hung.
#[derive(Debug)]
struct Hung {
    /// The duration of each request.
    times: Vec<Duration>,
    /// When the page had its series for the last time.
    served_until: Duration,
    lateness: Lateness,
}

/// Stops an etcd for nine seconds and reads the probe's page, until its series are back.
fn hang(setting: &Setting) -> Hung {
    let etcd = &setting.members[0];
    let label = [("member", etcd.name())];
    let has_leader = |metrics: &Metrics| metrics.value("etcd_server_has_leader", &label);
    let age = |metrics: &Metrics| metrics.expect("etcd_disk_probe_etcd_scrape_age_seconds", &label);
    let read = || {
        let started = Instant::now();
        let metrics = setting.probe.metrics().unwrap();
        (metrics, started.elapsed())
    };
    assert_eq!(has_leader(&read().0), Some(1.0));
    let ticker = Ticker::start();
    process::send(etcd.pid(), Signal::STOP).unwrap();
    let stopped = Instant::now();
    thread::sleep(Duration::from_millis(1_500));
    let mut times = Vec::new();
    let mut last_age_s = 0.0;
    let mut served_until = stopped.elapsed();
    while stopped.elapsed() < Duration::from_secs(9) {
        let (metrics, took) = read();
        times.push(took);
        if has_leader(&metrics).is_some() {
            served_until = stopped.elapsed();
            assert!(age(&metrics) <= 5.0, "an old copy is not served: {} s", age(&metrics));
        }
        assert!(age(&metrics) > last_age_s, "the age grows: {last_age_s} s, then {} s", age(&metrics));
        last_age_s = age(&metrics);
        let alive = metrics.value("etcd_server_has_leader", &[("member", setting.members[1].name())]);
        assert!(alive.is_some(), "the others are not delayed");
    }
    process::send(etcd.pid(), Signal::CONT).unwrap();
    let lateness = ticker.stop();
    let back = Cancel::default().wait_for(FOUND_WITHIN, || Ok(has_leader(&read().0)));
    assert!(back.unwrap().is_some(), "they come back: {}", setting.probe.log().unwrap());
    Hung { times, served_until, lateness }
}

/// Returns the scrape target of the probe.
fn target(address: SocketAddr, directory: &Path) -> Target {
    Target {
        authority: Some(directory.join("ca.pem")),
        basic_auth: Some((USER.to_owned(), PASSWORD.to_owned())),
        ..Target::plain(address, Duration::from_secs(1))
    }
}

fn one(elements: &[Element], expected: f64) -> bool {
    elements.len() == 1 && (elements[0].value - expected).abs() < 1e-9
}

#[test]
fn a_real_prometheus_answers_from_the_probe_alone() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5"), Need::Prometheus]);
    let (mut setting, directory) = start("prometheus");
    wait_for_peers(&setting);
    let load = Load { tolerant: true, ..LIGHT }.start(setting.members[0].endpoint());
    let server =
        Prometheus::start(&target(setting.probe.endpoint().address(), &directory), "probe", &directory)
            .unwrap();
    let soon = Duration::from_mins(1);
    server.wait_for("sum(up)", soon, |sum| one(sum, 1.0)).unwrap();
    let own: Vec<_> = setting.members.iter().map(|member| member.name().to_owned()).collect();
    let own = format!("member=~\"{}\"", own.join("|"));
    let of_own = |expression: &str| expression.replace('~', &own);
    server.wait_for(&of_own("sum(etcd_disk_probe_etcd_up{~})"), soon, |sum| one(sum, 3.0)).unwrap();
    server.wait_for(&of_own("sum(etcd_server_has_leader{~})"), soon, |sum| one(sum, 3.0)).unwrap();
    let leader = server.query(&of_own("etcd_server_is_leader{~} == 1")).unwrap();
    assert_eq!(leader.len(), 1, "{leader:?}");
    let is_leader = |etcd: &Etcd| leader[0].label("member") == etcd.name();

    assert_prometheus_has_what_etcd_says(&setting, &server, load.so_far().puts);

    // Two of three members die, among them the leader: the third has no quorum and therefore no leader.
    let leading = setting.members.iter().position(is_leader).unwrap();
    let (survivor, dead) = ((leading + 1) % 3, [leading, (leading + 2) % 3]);
    let name = setting.members[survivor].name().to_owned();
    let of_survivor = |expression: &str| expression.replace('~', &format!("member=\"{name}\""));
    let changes = server.query(&of_survivor("etcd_server_leader_changes_seen_total{~}")).unwrap();
    for index in dead {
        setting.members[index].kill9().unwrap();
    }
    server.wait_for(&of_survivor("etcd_server_has_leader{~}"), soon, |value| one(value, 0.0)).unwrap();
    // The series of the dead members disappear at once through staleness markers, not after five minutes.
    server.wait_for(&of_own("count(etcd_server_has_leader{~})"), soon, |count| one(count, 1.0)).unwrap();
    server.wait_for(&of_own("sum(etcd_disk_probe_etcd_up{~})"), soon, |sum| one(sum, 1.0)).unwrap();
    setting.members[dead[1]].restart().unwrap();
    server.wait_for(&of_own("sum(etcd_server_has_leader{~})"), soon, |sum| one(sum, 2.0)).unwrap();
    server.wait_for(&of_own("sum(etcd_server_is_leader{~})"), soon, |sum| one(sum, 1.0)).unwrap();
    let risen = changes[0].value + 1.0;
    let seen = of_survivor("etcd_server_leader_changes_seen_total{~}");
    server.wait_for(&seen, soon, |value| value.len() == 1 && value[0].value >= risen).unwrap();

    let dips = server.query(&of_survivor("min_over_time(etcd_server_has_leader{~}[5m])")).unwrap();
    assert!(one(&dips, 0.0), "the loss is in the history: {dips:?}");
    for function in ["changes", "rate", "increase"] {
        let expression = of_survivor(&format!("{function}(etcd_server_leader_changes_seen_total{{~}}[5m])"));
        let value = server.query(&expression).unwrap();
        assert!(value.len() == 1 && value[0].value > 0.0, "{expression}: {value:?}");
    }
    let failed = server.query(&of_own("rate(etcd_server_proposals_failed_total{~}[15m])")).unwrap();
    assert!(failed.len() >= 2 && failed.iter().all(|rate| rate.value >= 0.0), "{failed:?}");
    let alarm = server.query(&of_own("rate(etcd_server_proposals_failed_total{~}[15m]) > 5")).unwrap();
    assert!(alarm.is_empty(), "a light load has no such rate: {alarm:?}");
    let p99 =
        of_own("histogram_quantile(0.99, rate(etcd_disk_backend_commit_duration_seconds_bucket{~}[5m]))");
    let p99 = server.query(&p99).unwrap();
    assert!(p99.len() >= 2, "{p99:?}");
    assert!(p99.iter().all(|quantile| quantile.value > 0.0 && quantile.value <= 8.192), "{p99:?}");
    let gaps = server.query("min_over_time(up[10m])").unwrap();
    assert!(one(&gaps, 1.0), "not one scrape failed: {gaps:?}");
    println!("{}: p99 of commits {p99:?}", load.stop().unwrap().puts);
}

/// Compares all of Prometheus' series of the members with etcd's own, read before and after the scrape.
fn assert_prometheus_has_what_etcd_says(setting: &Setting, server: &Prometheus, puts: u64) {
    let soon = Duration::from_mins(1);
    assert!(puts > 0, "the load shows");
    for etcd in &setting.members {
        let before = own_page(etcd);
        // The copy of a scrape that begins in two seconds was made after this reading.
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let scraped = format!("timestamp(up) > {:.3}", now_s + 2.0);
        server.wait_for(&scraped, soon, |value| value.len() == 1).unwrap();
        let selector = format!("{{member=\"{}\",__name__!~\"etcd_disk_probe_.*\"}}", etcd.name());
        let stored = server.query(&selector).unwrap();
        let after = own_page(etcd);
        assert_eq!(stored.len(), after.samples.len(), "{}: every series, and none else", etcd.name());
        let stored: BTreeMap<_, _> =
            stored.iter().map(|element| (as_written(element), element.value)).collect();
        for (series, high) in &after.samples {
            let value = *stored.get(series).unwrap_or_else(|| panic!("Prometheus has {series}: {stored:?}"));
            let [low, high] = [&before.samples[series], high].map(|text| text.parse::<f64>().unwrap());
            if RESTLESS.iter().any(|family| series == family) {
                continue;
            }
            let range = low.min(high)..=low.max(high);
            assert!(range.contains(&value), "{}: {series} is {value}, etcd's own {range:?}", etcd.name());
        }
    }
}

/// Formats a series as etcd does: labels in order, `le` last.
fn as_written(element: &Element) -> String {
    let is_own = |name: &str| !["__name__", "member", "instance", "job", "le"].contains(&name);
    let mut labels: Vec<_> = element.labels.iter().filter(|(name, _)| is_own(name)).collect();
    labels.extend(element.labels.get_key_value("le"));
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let name = element.label("__name__");
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}
