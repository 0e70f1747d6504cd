//! The dashboard and the scrape configuration examples, checked with a real probe and a real Prometheus:
//! every query has a result.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use probe_tests::etcd::certs::{Authority, Mutual, Pair, Validity};
use probe_tests::etcd::cluster;
use probe_tests::etcd::load::{Amount, Load, Running};
use probe_tests::etcd::{self, Etcd};
use probe_tests::faults::attempts::{ATTEMPTS, Attempt, attempts};
use probe_tests::faults::evidence::Timers;
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::Endpoint;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Scratch, SlowFs, Tmpfs};
use probe_tests::observability::grafana::{self, Dashboard, Panel, Query, QueryKind};
use probe_tests::observability::prometheus::{self, Element, Prometheus};
use probe_tests::observability::promql::Known;
use probe_tests::observability::scrape_examples::{self, CLUSTER, JOB, SERVER_NAME, Substitutes};
use probe_tests::probe::metrics::Metrics;
use probe_tests::probe::{self, Invocation, Probe};
use probe_user::analysis::verdict::Verdict;

const ETCD: &str = "3.5";

/// The same probe again, with every drop rule of the example enabled.
const LEAN_JOB: &str = "lean";

/// The job with the result of Kubernetes discovery.
const KUBERNETES_JOB: &str = "kubernetes";

const USER: &str = "prometheus";
const PASSWORD: &str = "of the dashboard";

/// Enough for one rotation of the WAL, which has segments of 64 MiB.
const ROTATING: Load =
    Load { amount: Amount::Puts(1_100), connections: 8, value_bytes: 64 << 10, keys: 50, tolerant: true };

const LIGHT: Load =
    Load { amount: Amount::UntilStopped, connections: 2, value_bytes: 512, keys: 100, tolerant: true };

const DISK_MIB: u32 = 512;

/// Above etcd's guidance for a sync, but not so slow that the member drops out of the cluster.
const SLOW_WRITE: Duration = Duration::from_millis(15);

/// The verdicts that this may cause.
const SLOW_VERDICTS: &str = "device_slow|flush_slow|queue_saturated";

const SOON: Duration = Duration::from_mins(1);

/// etcd first measures the round trip to its peers after half a minute.
const PEERS_WITHIN: Duration = Duration::from_mins(6);

/// Grafana's `$__rate_interval` for a point every 15 s and a scrape every second: the sum of both. On a busy
/// machine a scrape or two may fail.
const RATE_INTERVAL: Duration = Duration::from_secs(16);

/// A rate of a metric that etcd observes once in half a minute: with only one observation the result exists
/// but is not a number.
const RARE: &str = "Round trip to peers, p99";

/// Samples per member in Prometheus, and their bytes in a scrape; docs/dashboard.md states both.
const MEMBER_SAMPLES: std::ops::RangeInclusive<usize> = 850..=1_000;
const MEMBER_BYTES: std::ops::RangeInclusive<usize> = 80_000..=110_000;

fn dashboard() -> Dashboard {
    Dashboard::read(&scrape_examples::project("deploy/chart/etcd-disk-probe/files/dashboard.json")).unwrap()
}

fn find<'a>(panels: &[Panel<'a>], title: &str) -> Panel<'a> {
    *panels
        .iter()
        .find(|panel| panel.title() == title)
        .unwrap_or_else(|| panic!("no panel is called {title}"))
}

#[test]
fn the_dashboard_can_be_read_by_people() {
    let dashboard = dashboard();
    assert_eq!(dashboard.problems(), Vec::<String>::new());
    let panels = dashboard.panels();
    // One number for each verdict, the same in the expression and in its value mapping.
    let timeline = find(&panels, "Verdicts over time");
    let expression = timeline.queries().next().unwrap().expression;
    let texts = timeline.texts();
    for (verdict, number) in Verdict::ALL.into_iter().zip(1..) {
        let term = format!(
            "{number} * etcd_disk_probe_verdict{{cluster=~\"$cluster\", job=~\"$job\", member=~\"$member\", \
             verdict=\"{}\"}}",
            verdict.as_str()
        );
        assert!(expression.contains(&term), "{expression} lacks {term}");
        let shown = texts.get(number.to_string().as_str());
        assert_eq!(shown.copied(), Some(verdict.as_str().replace('_', " ").as_str()), "{texts:?}");
    }
    assert_eq!(texts.len(), Verdict::ALL.len(), "{texts:?}");
    let documented = fs::read_to_string(scrape_examples::project("docs/dashboard.md")).unwrap();
    for row in panels.iter().filter(|panel| panel.kind() == "row") {
        assert!(
            documented.contains(&format!("## {}", row.title())),
            "docs/dashboard.md lacks {}",
            row.title()
        );
    }
}

#[test]
fn promtool_accepts_the_scrape_configurations() {
    requirements::require(&[Need::Prometheus]);
    let scratch = Scratch::on_disk("scraping").unwrap();
    let kubernetes = scratch.path().join("kubernetes.yaml");
    fs::write(&kubernetes, scrape_examples::discovered("192.0.2.11:12381".parse().unwrap()).unwrap())
        .unwrap();
    for file in [scrape_examples::project("deploy/prometheus/static.yaml"), kubernetes] {
        let said = prometheus::check_config(&file).unwrap();
        println!("{said}");
        assert!(said.contains("SUCCESS"), "{}: {said}", file.display());
    }
}

struct Setting {
    probe: Probe,
    prometheus: Prometheus,
    started: Instant,
    members: Vec<Etcd>,
    disk: SlowFs,
    _memory: Tmpfs,
    _scratch: Scratch,
}

/// Starts a cluster whose first member is on a disk that can be slowed down, a probe behind TLS and a
/// password, and a Prometheus configured as in deploy/prometheus/static.yaml.
fn start() -> Setting {
    let scratch = Scratch::on_disk("dashboard").unwrap();
    let memory = Tmpfs::mount(&scratch.path().join("memory"), 1024).unwrap();
    let directory = memory.path();
    let authority = Authority::create(directory, "ca").unwrap();
    let tls = Mutual {
        server: authority.server("server", &[SERVER_NAME], Validity::Current).unwrap(),
        client: authority.client("client", Validity::Current).unwrap(),
        authority: authority.certificate().to_owned(),
    };
    let name = format!("dashboard-{}", std::process::id());
    let disk = SlowFs::create(&directory.join(format!("{name}-a.etcd")), DISK_MIB).unwrap();
    let members = cluster::start(&etcd::find(ETCD).unwrap(), &name, directory, &tls).unwrap();
    let probe = launch(directory, &tls).ready().unwrap();
    let password = directory.join("password");
    fs::write(&password, PASSWORD).unwrap();
    let here = Substitutes { probe: probe.endpoint().address(), authority: tls.authority, password };
    let configuration = scrape_examples::all(&here, LEAN_JOB, KUBERNETES_JOB).unwrap();
    let prometheus = Prometheus::configured(&configuration, directory).unwrap();
    let started = Instant::now();
    prometheus.wait_for("sum(up)", SOON, |sum| sum.len() == 1 && (sum[0].value - 3.0).abs() < 0.5).unwrap();
    Setting { probe, prometheus, started, members, disk, _memory: memory, _scratch: scratch }
}

fn launch(directory: &Path, tls: &Mutual) -> Probe {
    let Pair { certificate, key } = &tls.server;
    let hash = bcrypt::hash(PASSWORD, 10).unwrap();
    let text = format!(
        "tls_server_config:\n  cert_file: {}\n  key_file: {}\nbasic_auth_users:\n  {USER}: {hash}\n",
        certificate.display(),
        key.display()
    );
    let file = directory.join("web.yaml");
    fs::write(&file, text).unwrap();
    let call = Invocation::new(&probe::binary().unwrap(), directory);
    let probe = call.arguments(&["--web.config.file", file.to_str().unwrap()]).launch().unwrap();
    let endpoint = Endpoint::tls(probe.endpoint().address(), &tls.authority, &tls.client).unwrap();
    probe.reached_by(endpoint.as_user(USER, PASSWORD))
}

#[test]
fn every_panel_has_an_answer() {
    requirements::require(
        &[&requirements::SLOW_EXT4[..], &[Need::Root, Need::Bpf, Need::Etcd(ETCD), Need::Prometheus]]
            .concat(),
    );
    let (setting, load, named) = attempts("every_panel_has_an_answer", ATTEMPTS, |_| slow_down());
    named.unwrap();
    assert_every_panel_shows_it(&setting);
    println!("{:?}", load.stop().unwrap());
}

/// Slows the first member's disk down and waits until its verdict is slow in Prometheus. The attempt is
/// disturbed if the disk was not slow by its own clock, or its member was not by etcd's.
fn slow_down() -> Attempt<(Setting, Running, anyhow::Result<Vec<Element>>)> {
    let setting = start();
    println!("rotating: {:?}", ROTATING.start(setting.members[0].endpoint()).wait().unwrap());
    let timers = Timers::start(&setting.members[0]).unwrap();
    let before = setting.disk.served();
    setting.disk.write_delay(SLOW_WRITE);
    let load = LIGHT.start(setting.members[0].endpoint());
    let slow = setting.members[0].name();
    let peers =
        format!("count(etcd_network_peer_round_trip_time_seconds_count{{member=\"{slow}\",job=\"{JOB}\"}})");
    setting.prometheus.wait_for(&peers, PEERS_WITHIN, |count| count.len() == 1).unwrap();
    // No range may include the time before the disk was slow.
    let over = Cancel::default()
        .wait_for(2 * RATE_INTERVAL, || Ok((load.so_far().elapsed > RATE_INTERVAL).then_some(())))
        .unwrap();
    assert!(over.is_some(), "the load continues");
    let verdict = format!(
        "etcd_disk_probe_verdict{{member=\"{slow}\",job=\"{JOB}\",verdict=~\"{SLOW_VERDICTS}\"}} == 1"
    );
    let named = setting.prometheus.wait_for(&verdict, SOON, |found| !found.is_empty());
    let (evidence, served) = (timers.stop().unwrap(), setting.disk.served().since(&before));
    println!("{evidence}; {served:?}");
    let conditions = evidence
        .slow_by_storage()
        .at_least("writes of the disk", served.writes as f64, 60.0)
        .at_least("seconds of its writes", served.write_time.as_secs_f64(), 1.0);
    conditions.judge((setting, load, named))
}

fn assert_every_panel_shows_it(setting: &Setting) {
    let dashboard = dashboard();
    assert_variables_have_values(setting, &dashboard);
    assert_only_the_probe_is_scraped(setting);
    let page = setting.probe.get("/metrics").unwrap().text().unwrap();
    assert_all_is_known(&dashboard, &page);
    let mut problems = Vec::new();
    let panels = dashboard.panels();
    let mut queries = 0;
    for panel in &panels {
        for query in panel.queries() {
            queries += 1;
            problems.extend(look(setting, panel, query));
        }
    }
    for expression in dashboard.annotations() {
        setting.prometheus.query(&interpolated(setting, expression, None)).unwrap();
    }
    assert!(problems.is_empty(), "of {queries} queries {}:\n{}", problems.len(), problems.join("\n"));
    assert_the_figures_are_true(setting, &panels);
    println!("{queries} queries of {} panels have data", panels.len());
    assert_cost(setting, &page);
}

/// Replaces variables as Grafana would: by all members, or by the one of the repeated row.
fn interpolated(setting: &Setting, expression: &str, member: Option<&str>) -> String {
    let all: Vec<_> = setting.members.iter().map(Etcd::name).collect();
    let member = member.map_or_else(|| format!("({})", all.join("|")), str::to_owned);
    let range = format!("{}s", setting.started.elapsed().as_secs());
    let rate_interval = format!("{}s", RATE_INTERVAL.as_secs());
    let values = [
        ("cluster", ".*"),
        ("job", JOB),
        ("member", member.as_str()),
        ("__rate_interval", rate_interval.as_str()),
        ("__range", range.as_str()),
    ];
    let text = grafana::interpolate(expression, &values);
    assert!(!text.contains('$'), "a variable has no value in {text}");
    text
}

fn assert_variables_have_values(setting: &Setting, dashboard: &Dashboard) {
    let members: Vec<_> = setting.members.iter().map(|etcd| etcd.name().to_owned()).collect();
    for (name, query) in dashboard.variables() {
        let query = interpolated(setting, query, None);
        let (selector, label) =
            grafana::label_values(&query).unwrap_or_else(|| panic!("{name} queries {query}"));
        let values = setting.prometheus.label_values(selector, label).unwrap();
        let expected = match name {
            "cluster" => vec![CLUSTER.to_owned()],
            "job" => vec![JOB.to_owned(), LEAN_JOB.to_owned(), KUBERNETES_JOB.to_owned()],
            _ => members.clone(),
        };
        // There may be other etcd processes on this machine.
        assert!(expected.iter().all(|value| values.contains(value)), "{name} of {query}: {values:?}");
    }
}

/// Asserts that of the discovered pods only the probe's is scraped, and checks its labels.
fn assert_only_the_probe_is_scraped(setting: &Setting) {
    let up = setting.prometheus.query(&format!("up{{job=\"{KUBERNETES_JOB}\"}}")).unwrap();
    assert_eq!(up.len(), 1, "{up:?}");
    let labels = [
        ("node", "node-0"),
        ("namespace", "etcd-disk-probe"),
        ("pod", "etcd-disk-probe-0"),
        ("cluster", CLUSTER),
    ];
    for (label, value) in labels {
        assert_eq!(up[0].label(label), value, "{up:?}");
    }
}

/// Asserts that the probe exports every metric, label and value that any expression uses.
fn assert_all_is_known(dashboard: &Dashboard, page: &str) {
    let recorded = fs::read_to_string(scrape_examples::project("probe-user/testdata/metrics.prom")).unwrap();
    let known = Known::of(page, &recorded).unwrap();
    let values =
        [("cluster", ".*"), ("job", ".+"), ("member", ".+"), ("__rate_interval", "1m"), ("__range", "1h")];
    let panels = dashboard.panels();
    let queries =
        panels.iter().flat_map(|panel| panel.queries().map(|query| (panel.title(), query.expression)));
    let annotations = dashboard.annotations().into_iter().map(|expression| ("annotation", expression));
    let variables = dashboard.variables().into_iter().map(|(name, query)| {
        (name, grafana::label_values(query).expect("all variables query the values of a label").0)
    });
    let mut strangers = Vec::new();
    for (title, expression) in queries.chain(annotations).chain(variables) {
        let found = known.unknown_names(&grafana::interpolate(expression, &values)).unwrap();
        strangers.extend(found.into_iter().map(|stranger| format!("{title}: {stranger}")));
    }
    assert_eq!(strangers, Vec::<String>::new());
}

/// Queries as Grafana would; returns what is wrong with the result.
fn look(setting: &Setting, panel: &Panel, query: Query) -> Option<String> {
    let member = panel.repeated_by.map(|_| setting.members[0].name());
    let expression = interpolated(setting, query.expression, member);
    let answer = match query.kind {
        QueryKind::Instant => setting.prometheus.query(&expression),
        QueryKind::Range => setting.prometheus.query_over(&expression, setting.started.elapsed()),
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Some(format!("{}: {error:#}", panel.title())),
    };
    let wrong = |what: String| Some(format!("{}: {what}: {expression}", panel.title()));
    if answer.is_empty() {
        return wrong("no data".to_owned());
    }
    if panel.title() != RARE && !answer.iter().any(|element| element.value.is_finite()) {
        return wrong("no number".to_owned());
    }
    let labels: BTreeSet<_> =
        answer.iter().flat_map(|element| element.labels.keys().map(String::as_str)).collect();
    // Without errors the result is a zero without a label for the cause.
    let zero = query.expression.contains(" or 0 * ");
    let missing = query.legend_labels().into_iter().find(|label| !labels.contains(label));
    missing
        .filter(|_| !zero)
        .and_then(|label| wrong(format!("its legend shows {label}, and there are {labels:?}")))
}

/// Asserts that the panels show the fault of the slow member.
fn assert_the_figures_are_true(setting: &Setting, panels: &[Panel]) {
    let slow = setting.members[0].name();
    let now = |title: &str, index: usize| -> Vec<Element> {
        let panel = find(panels, title);
        let query = panel.queries().nth(index).expect("the panel has that many queries");
        let member = panel.repeated_by.map(|_| slow);
        setting.prometheus.query(&interpolated(setting, query.expression, member)).unwrap()
    };
    let of = |elements: Vec<Element>, label: &str, value: &str| {
        elements.iter().find(|element| element.label(label) == value).map(|element| element.value)
    };
    let p99_s = of(now("WAL fsync p99 by member", 0), "member", slow).expect("it syncs");
    assert!(p99_s > 0.01, "{p99_s}");
    let worst_s = now("Worst WAL fsync p99", 0)[0].value;
    assert!(worst_s >= 0.9 * p99_s, "{worst_s}, of {slow} {p99_s}");
    let shown = of(now("Verdicts over time", 0), "member", slow).expect("it has a verdict");
    let texts = find(panels, "Verdicts over time").texts();
    let text = texts.get(format!("{shown:.0}").as_str()).copied();
    assert!(text.is_some_and(|text| SLOW_VERDICTS.contains(&text.replace(' ', "_"))), "{shown} is {text:?}");
    let difference = now("Cross-check difference", 0)[0].value;
    assert!(difference.abs() < 0.5, "{difference}");
    let blocked = of(now("Time in system calls, by state", 0), "state", "blocked").expect("it waits");
    let on_cpu = of(now("Time in system calls, by state", 0), "state", "on_cpu").expect("it works");
    assert!(blocked > on_cpu, "on a slow disk it waits: {blocked}, {on_cpu}");
    let leaders: Vec<_> = now("Leader and followers", 0)
        .iter()
        .filter(|element| element.value > 1.5)
        .map(|element| element.value)
        .collect();
    assert_eq!(leaders.len(), 1, "one of the three leads");
}

/// Asserts the cost in docs/dashboard.md, and that the drop rules drop what they document.
fn assert_cost(setting: &Setting, page: &str) {
    let metrics = Metrics::parse(page).unwrap();
    for etcd in &setting.members {
        let label = format!("member=\"{}\"", etcd.name());
        let lines: Vec<_> =
            page.lines().filter(|line| !line.starts_with('#') && line.contains(&label)).collect();
        let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
        println!("{}: {} samples, {bytes} bytes", etcd.name(), lines.len());
        assert!(MEMBER_SAMPLES.contains(&lines.len()), "{} samples of {}", lines.len(), etcd.name());
        assert!(MEMBER_BYTES.contains(&bytes), "{bytes} bytes of {}", etcd.name());
    }
    println!("the page: {} bytes, {} samples", page.len(), metrics.samples.len());
    let count = |expression: &str| {
        setting.prometheus.query(expression).unwrap().first().map_or(0.0, |element| element.value)
    };
    let per_member = |job: &str, metric: &str| {
        let selector =
            format!("{{__name__=\"{metric}\",job=\"{job}\",member=\"{}\"}}", setting.members[1].name());
        count(&format!("count({selector})"))
    };
    let cases = [
        ("etcd_disk_probe_operation_duration_seconds_bucket", 476.0, 0.0),
        ("etcd_disk_probe_operation_duration_seconds_count", 17.0, 17.0),
        ("etcd_disk_probe_wal_fsync_duration_seconds_bucket", 28.0, 18.0),
        ("etcd_disk_probe_backend_commit_duration_seconds_bucket", 28.0, 18.0),
        ("etcd_disk_probe_wal_rotation_duration_seconds_bucket", 28.0, 18.0),
        ("etcd_disk_wal_fsync_duration_seconds_bucket", 15.0, 15.0),
        ("etcd_disk_backend_defrag_duration_seconds_bucket", 14.0, 0.0),
        ("etcd_snap_fsync_duration_seconds_bucket", 15.0, 0.0),
    ];
    for (metric, whole, lean) in cases {
        assert!((per_member(JOB, metric) - whole).abs() < 0.5, "{metric}: {}", per_member(JOB, metric));
        assert!(
            (per_member(LEAN_JOB, metric) - lean).abs() < 0.5,
            "{metric} lean: {}",
            per_member(LEAN_JOB, metric)
        );
    }
    for job in [JOB, LEAN_JOB] {
        println!("{job}: {} kept", count(&format!("scrape_samples_post_metric_relabeling{{job=\"{job}\"}}")));
    }
}
