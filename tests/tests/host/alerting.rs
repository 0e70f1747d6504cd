//! From a fault to the notification: a real probe, etcd, Prometheus and Alertmanager with the shipped rules
//! and configuration. Only durations are shorter: [`RuleFile::shorten`] and [`configuration`] divide all of
//! them by [`FACTOR`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Etcd, Member};
use probe_tests::faults::attempts::{ATTEMPTS, Attempt, attempts};
use probe_tests::faults::evidence::Timers;
use probe_tests::machine::cgroup::{Cgroup, Hierarchy};
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Format, LoopFs, Scratch, Tmpfs};
use probe_tests::observability::alertmanager::{self, Alertmanager, Notice, Receiver};
use probe_tests::observability::prometheus::Prometheus;
use probe_tests::observability::promql::Known;
use probe_tests::observability::rules::{self, RuleFile};
use probe_tests::probe::{self, Invocation, Probe};
use serde_json::json;

const ETCD: &str = "3.5.16";

/// Five minutes take ten seconds, an hour takes two minutes.
const FACTOR: u32 = 30;

/// The receivers in the example, to be replaced.
const PLACEHOLDER: &str = "http://127.0.0.1:9000/";

/// The time limit for an alert to arrive. Its condition must hold for 5 of 10 s and 4 s more, after a verdict
/// with a window of 3 s.
const NOTIFIED_WITHIN: Duration = Duration::from_mins(3);

/// The window of a verdict: a minute divided by [`FACTOR`], plus a second, for a scrape of etcd at both ends.
const WINDOW: &str = "3s";

/// Writes per second: this limit makes a fast disk slow.
const FEW_WRITES: u32 = 90;

/// The alerts on causes; any other alert may follow from the same fault.
const CAUSES: &str = "etcd-disk-probe.causes";

/// More puts per second than [`FEW_WRITES`], and so few that a busy machine has the CPU for them.
const LOAD: Load = Load {
    amount: Amount::Paced(Duration::from_millis(5)),
    connections: 1,
    value_bytes: 512,
    keys: 100,
    tolerant: true,
};

/// Returns the shipped example with the test's receiver and shorter durations.
fn configuration(receiver: &Receiver) -> String {
    let example = fs::read_to_string(rules::in_repository("deploy/prometheus/alertmanager.yaml")).unwrap();
    assert_eq!(example.matches(PLACEHOLDER).count(), 2, "two receivers");
    let lines = example.replace(PLACEHOLDER, &receiver.url(""));
    let mut shortened = 0;
    let lines = lines.lines().map(|line| match line.trim().split_once(": ") {
        Some((key @ ("group_wait" | "group_interval" | "repeat_interval"), duration)) => {
            shortened += 1;
            format!("  {key}: {}\n", rules::divide(duration, FACTOR).unwrap())
        }
        _ => format!("{line}\n"),
    });
    let text = lines.collect();
    assert_eq!(shortened, 3, "{text}");
    text
}

/// Starts a Prometheus that scrapes the probe every second and has the shipped rules.
fn prometheus(probe: &Probe, alertmanager: SocketAddr, scratch: &Scratch) -> Prometheus {
    for name in ["alerts.yaml", "records.yaml"] {
        let mut file = RuleFile::shipped(name).unwrap();
        file.shorten(FACTOR).unwrap();
        file.write(&scratch.path().join(name)).unwrap();
    }
    let configuration = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
         rule_files: [alerts.yaml, records.yaml]\n\
         alerting: {{ alertmanagers: [ {{ static_configs: [ {{ targets: ['{alertmanager}'] }} ] }} ] }}\n\
         scrape_configs:\n- job_name: etcd-disk-probe\n  static_configs: [ {{ targets: ['{}'] }} ]\n",
        probe.endpoint().address()
    );
    Prometheus::configured(&configuration, scratch.path()).unwrap()
}

/// Returns the alerts on causes.
fn causes() -> BTreeSet<String> {
    let groups = RuleFile::shipped("alerts.yaml").unwrap().groups;
    let causes = groups.into_iter().filter(|group| group.name == CAUSES);
    causes.flat_map(|group| group.rules).map(|rule| rule.name().to_owned()).collect()
}

#[test]
fn a_throttled_etcd_alerts_by_its_cause_only_and_until_it_ends() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd(ETCD), Need::Prometheus, Need::Alertmanager]);
    requirements::require(&requirements::LOOP_EXT4);
    requirements::require(&[Need::Cgroups(Hierarchy::Controller("blkio"))]);
    let name = "a_throttled_etcd_alerts_by_its_cause_only_and_until_it_ends";
    let throttled = attempts(name, ATTEMPTS, |_| throttle());
    throttled.assert_only_its_cause_alerted();
}

/// An etcd that was throttled for a while, and what was notified.
struct Run {
    throttled: Instant,
    lifted: Instant,
    notice: Notice,
    over: Notice,
    receiver: Receiver,
    prometheus: Prometheus,
    probe: Probe,
    _alertmanager: Alertmanager,
    _etcd: Etcd,
    _group: Cgroup,
    _disk: LoopFs,
    _memory: Tmpfs,
    _scratch: Scratch,
}

/// Throttles an etcd until it is notified. The attempt is disturbed if the throttle was not the reason why
/// etcd was slow, by etcd's own figures and those of its cgroup.
fn throttle() -> Attempt<Run> {
    let scratch = Scratch::on_disk("alerting").unwrap();
    let memory = Tmpfs::mount(&scratch.path().join("memory"), 1024).unwrap();
    let disk = LoopFs::create(&memory.path().join("disk"), Format::Ext4, 320).unwrap();
    let group = Cgroup::create(Hierarchy::Controller("blkio"), "probe-alerting").unwrap();
    let member = Member::new(&etcd::find(ETCD).unwrap(), "throttled", memory.path());
    let etcd = member.data_dir(&disk.path().join("throttled.data")).in_groups(&[&group]).start().unwrap();
    let call = Invocation::new(&probe::binary().unwrap(), memory.path());
    let probe = call.arguments(&["--window", WINDOW, "--scrape-interval", "1s"]).run().unwrap();
    let receiver = Receiver::start().unwrap();
    let alertmanager = Alertmanager::start(&configuration(&receiver), memory.path()).unwrap();
    let prometheus = prometheus(&probe, alertmanager.address(), &scratch);
    let load = LOAD.start(etcd.endpoint());
    // Long enough that only the throttle can cause what follows.
    let healthy = "sum_over_time(etcd_disk_probe_verdict{verdict=\"healthy\"}[5s]) >= 5";
    prometheus.wait_for(healthy, NOTIFIED_WITHIN, |found| found.len() == 1).unwrap();

    let limit = |writes: u32| group.limit_writes(disk.device(), writes).unwrap();
    let writes = || group.writes(disk.device()).unwrap();
    let timers = Timers::start(&etcd).unwrap();
    limit(FEW_WRITES);
    let (throttled, before) = (Instant::now(), writes());
    let notice = receiver.wait_for(NOTIFIED_WITHIN, |notice| notice.name() == "EtcdDiskIoThrottled").unwrap();
    let rate = (writes() - before) as f64 / throttled.elapsed().as_secs_f64();
    let evidence = timers.stop().unwrap();
    println!("after {:?}: {evidence}", throttled.elapsed());
    let conditions = evidence
        .slow_by_storage()
        .at_least("writes per second of the cgroup", rate, f64::from(FEW_WRITES) / 2.0)
        .at_most("writes per second of the cgroup", rate, f64::from(FEW_WRITES) * 1.2);
    if let Attempt::Disturbed(reason) = conditions.judge(()) {
        return Attempt::Disturbed(reason);
    }
    let notice = notice
        .unwrap_or_else(|| panic!("no notification: {:?}; {}", receiver.notices(), alertmanager.tail()));
    println!("notified: {:?}", notice.annotations);
    limit(0);
    let lifted = Instant::now();
    let over = receiver
        .wait_for(NOTIFIED_WITHIN, |notice| notice.name() == "EtcdDiskIoThrottled" && !notice.is_firing)
        .unwrap();
    let over = over.unwrap_or_else(|| panic!("it is not over: {:?}", receiver.notices()));
    println!("over after {:?}; {:?}", lifted.elapsed(), load.stop().unwrap());
    Attempt::Valid(Run {
        throttled,
        lifted,
        notice,
        over,
        receiver,
        prometheus,
        probe,
        _alertmanager: alertmanager,
        _etcd: etcd,
        _group: group,
        _disk: disk,
        _memory: memory,
        _scratch: scratch,
    })
}

impl Run {
    fn assert_only_its_cause_alerted(&self) {
        let Self { throttled, lifted, notice, over, receiver, prometheus, probe, .. } = self;
        assert!(notice.is_firing, "{notice:?}");
        assert_eq!((notice.path.as_str(), over.path.as_str()), ("ticket", "ticket"), "a warning is no page");
        let label = |name: &str| notice.labels.get(name).map_or("", String::as_str);
        assert_eq!(
            (label("member"), label("severity"), label("job")),
            ("throttled", "warning", "etcd-disk-probe")
        );
        assert!(
            notice.annotations["runbook_url"].ends_with("/docs/runbooks/EtcdDiskIoThrottled.md"),
            "{notice:?}"
        );

        let fired = prometheus
            .query("count by (alertname) (count_over_time(ALERTS{alertstate=\"firing\"}[1h]))")
            .unwrap();
        let fired: BTreeSet<_> = fired.iter().map(|element| element.label("alertname").to_owned()).collect();
        let ago_s = |aggregate: &str| -> BTreeMap<String, f64> {
            let seconds = format!("time() - {aggregate}(timestamp(etcd_disk_probe_verdict == 1)[10m:1s])");
            let found = prometheus.query(&seconds).unwrap();
            found.iter().map(|element| (element.label("verdict").to_owned(), element.value.round())).collect()
        };
        println!("fired: {fired:?}");
        println!("verdicts, first seconds ago: {:?}", ago_s("min_over_time"));
        println!("verdicts, last seconds ago: {:?}", ago_s("max_over_time"));
        println!(
            "throttled seconds ago: {:.0} to {:.0}",
            throttled.elapsed().as_secs_f64(),
            lifted.elapsed().as_secs_f64()
        );
        for notice in receiver.notices() {
            let after_s = notice.at.duration_since(*throttled).as_secs_f64();
            println!(
                "{after_s:.1} s after the throttle: {} {}, firing: {}",
                notice.path,
                notice.name(),
                notice.is_firing
            );
        }
        let notified: BTreeSet<_> =
            receiver.notices().iter().map(|notice| notice.name().to_owned()).collect();
        let causes = causes();
        let only = BTreeSet::from(["EtcdDiskIoThrottled".to_owned()]);
        assert_eq!((&fired & &causes, &notified & &causes), (only.clone(), only), "of causes, this one");

        assert_every_record_is_there(prometheus);
        assert_nothing_is_unknown(probe);
    }
}

/// Fails if a rule of the fleet view has no result although etcd was slow within its window.
fn assert_every_record_is_there(prometheus: &Prometheus) {
    for rule in RuleFile::shipped("records.yaml").unwrap().rules() {
        let found = prometheus.query(&format!("last_over_time({}[5m])", rule.name())).unwrap();
        assert!(!found.is_empty(), "{} has no result", rule.name());
    }
}

/// Fails if a rule uses a metric, a label or a label value that the probe does not export.
fn assert_nothing_is_unknown(probe: &Probe) {
    let records = RuleFile::shipped("records.yaml").unwrap();
    let mut page = probe.get("/metrics").unwrap().text().unwrap();
    // Rules use recorded metrics with colons, which exporters may not use.
    let plain = |name: &str| name.replace(':', "_");
    for rule in records.rules() {
        let name = plain(rule.name());
        writeln!(page, "# TYPE {name} gauge\n{name}{{member=\"\",verdict=\"\",cause=\"\"}} 0").unwrap();
    }
    let golden = fs::read_to_string(rules::in_repository("probe-user/testdata/metrics.prom")).unwrap();
    // Error series exist only after an error; these two exist here and mean nothing.
    let harmless = ["EINTR", "EOPNOTSUPP"].map(|errno| {
        format!("etcd_disk_probe_operation_errors_total{{member=\"\",file=\"wal\",op=\"fallocate\",errno=\"{errno}\"}} 0\n")
    });
    let known = Known::of(&page, &(golden + &harmless.concat())).unwrap();
    let recorded: Vec<_> = records.rules().map(|rule| rule.name().to_owned()).collect();
    for file in [RuleFile::shipped("alerts.yaml").unwrap(), records] {
        for rule in file.rules() {
            let expression =
                recorded.iter().fold(rule.expr.clone(), |text, name| text.replace(name, &plain(name)));
            assert_eq!(known.unknown_names(&expression).unwrap(), Vec::<String>::new(), "{}", rule.name());
        }
    }
}

/// The example notifies the right receivers and inhibits alerts that follow from a worse one.
#[test]
fn the_example_for_alertmanager_routes_and_inhibits() {
    requirements::require(&[Need::Root, Need::Alertmanager]);
    alertmanager::check_config(&rules::in_repository("deploy/prometheus/alertmanager.yaml")).unwrap();
    let scratch = Scratch::on_disk("routing").unwrap();
    let receiver = Receiver::start().unwrap();
    let alertmanager = Alertmanager::start(&configuration(&receiver), scratch.path()).unwrap();
    // Alerts that fire together, and the ones that arrive; (a) and (b) are members.
    let cases: [(&[&str], &[&str], &str); 8] = [
        (&["EtcdDiskIoThrottled a"], &["ticket EtcdDiskIoThrottled a"], "a warning"),
        (&["EtcdDiskStalled a"], &["page EtcdDiskStalled a"], "a critical alert"),
        (
            &["EtcdDiskProbeBlind a", "EtcdDiskDeviceSlow a", "EtcdDiskDeviceSlow b"],
            &["ticket EtcdDiskProbeBlind a", "ticket EtcdDiskDeviceSlow b"],
            "no cause of a member that nothing is claimed of",
        ),
        (
            &["EtcdDiskProbeSelfTestFailing", "EtcdDiskStalled a", "EtcdCpuStarved b", "EtcdLeaderMissing a"],
            &["ticket EtcdDiskProbeSelfTestFailing", "page EtcdLeaderMissing a"],
            "the measurements of a blind probe, but not the metrics of etcd",
        ),
        (
            &["EtcdDiskProbeCrosscheckBroken a", "EtcdDiskProbeBlind a", "EtcdDiskProbeBlind b"],
            &["ticket EtcdDiskProbeCrosscheckBroken a", "ticket EtcdDiskProbeBlind b"],
            "the reason for being blind is enough",
        ),
        (
            &["EtcdElectionsAtRisk a", "EtcdHeartbeatsAtRisk a", "EtcdHeartbeatsAtRisk b"],
            &["page EtcdElectionsAtRisk a", "ticket EtcdHeartbeatsAtRisk b"],
            "the worse of two",
        ),
        (&["EtcdDiskStalled a", "EtcdElectionsAtRisk a"], &["page EtcdDiskStalled a"], "a stall"),
        (
            &["EtcdHeartbeatsAtRisk a", "EtcdDiskIoThrottled a"],
            &["ticket EtcdHeartbeatsAtRisk a", "ticket EtcdDiskIoThrottled a"],
            "a cause and its effect belong together",
        ),
    ];
    let shipped = RuleFile::shipped("alerts.yaml").unwrap();
    let mut alerts = Vec::new();
    for (case, (firing, _, _)) in cases.iter().enumerate() {
        for alert in *firing {
            let (name, member) = alert.split_once(' ').unwrap_or((alert, ""));
            let rule = shipped.rules().find(|rule| rule.name() == name).unwrap();
            let severity = &rule.labels["severity"];
            let labels = json!({"alertname": name, "member": member, "severity": severity, "job": "etcd-disk-probe", "instance": case.to_string()});
            alerts.push(json!({ "labels": labels }));
        }
    }
    let posted = alertmanager.endpoint().post("/api/v2/alerts", json!(alerts).to_string()).unwrap();
    posted.text().unwrap();
    let expected: usize = cases.iter().map(|(_, arrive, _)| arrive.len()).sum();
    receiver.wait_for(Duration::from_mins(1), |_| receiver.notices().len() >= expected).unwrap();
    // An unwanted notification would arrive with the others: a group waits for a second.
    thread::sleep(Duration::from_secs(2));
    let notices = receiver.notices();
    for (case, (firing, arrive, why)) in cases.iter().enumerate() {
        let of_case = notices.iter().filter(|notice| notice.labels["instance"] == case.to_string());
        let arrived: BTreeSet<_> = of_case
            .map(|notice| {
                let member = notice.labels.get("member").map_or("", String::as_str);
                format!("{} {} {member}", notice.path, notice.name()).trim_end().to_owned()
            })
            .collect();
        let arrive: BTreeSet<_> = arrive.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(arrived, arrive, "{firing:?}: {why}");
    }
}
