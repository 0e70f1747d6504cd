//! Every etcd layout is discovered without a flag, scraped with a certificate that it accepts, and reconciled
//! event by event.

use std::fs;
use std::path::Path;
use std::time::Duration;

use probe_tests::etcd::certs::{Authority, Mutual, Validity};
use probe_tests::etcd::container::Container;
use probe_tests::etcd::settings::ConfigSource;
use probe_tests::etcd::{self, Etcd, Member, Readiness};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::free_address;
use probe_tests::machine::podman;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::assert_exact::{assert_exact, put_some};
use probe_tests::probe::crosscheck;
use probe_tests::probe::{self, Invocation, Probe};

const VERSION: &str = "3.5.16";

fn run_probe(scratch: &Scratch) -> Probe {
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path());
    call.arguments(&["--scrape-interval", "200ms"]).run().unwrap()
}

fn member(version: &str, name: &str, directory: &Path) -> Member {
    Member::new(&etcd::find(version).unwrap(), name, directory)
}

/// Waits until both sides agree on an etcd that the probe discovered only after its first syncs.
fn assert_agreed(probe: &Probe, label: &str) {
    let figures = crosscheck::settle(probe, label).unwrap();
    println!(
        "{label}: {:?} of kernel and etcd, difference 0",
        figures.each_ref().map(|figure| figure.kernel)
    );
    assert!(figures[0].kernel > 100.0, "{label}: the load shows: {figures:?}");
}

#[test]
fn mutual_tls_with_and_without_a_listener_for_metrics() {
    requirements::require(&[Need::Root, Need::Etcd("3.4"), Need::Etcd(VERSION), Need::Etcd("3.5.30")]);
    let scratch = Scratch::on_disk("mutual").unwrap();
    let tls = Mutual::create(scratch.path()).unwrap();
    let probe = run_probe(&scratch);
    let plain = format!("http://{}", free_address().unwrap());
    let several = ["https", "http", "http"].map(|scheme| format!("{scheme}://{}", free_address().unwrap()));
    let several = several.join(",");
    let cases: [(&str, &str, Option<&str>); 5] = [
        ("3.4", "mutual-34", None),
        (VERSION, "mutual-3516", None),
        ("3.5.30", "mutual-3530", None),
        ("3.5.30", "listener-3530", Some(&plain)),
        ("3.5.30", "several-3530", Some(&several)),
    ];
    let members = cases.map(|(version, name, metrics)| {
        let member = member(version, name, scratch.path()).tls(&tls);
        let member = metrics.into_iter().fold(member, |member, url| member.set("listen-metrics-urls", url));
        member.start().unwrap()
    });
    for etcd in &members {
        put_some(&etcd.endpoint());
    }
    for (etcd, (_, name, _)) in members.iter().zip(cases) {
        assert_exact(&probe, &etcd.endpoint(), name);
    }
}

/// kubeadm: etcd's own certificate is valid for servers only, and one for health checks is next to it.
#[test]
fn kubeadm_has_a_pair_for_health_checks() {
    requirements::require(&[Need::Root, Need::Etcd(VERSION)]);
    let scratch = Scratch::on_disk("kubeadm").unwrap();
    let authority = Authority::create(scratch.path(), "ca").unwrap();
    let health = authority.client("health", Validity::Current).unwrap();
    health.copy_to(&scratch.path().join("healthcheck-client")).unwrap();
    let tls = Mutual {
        authority: authority.certificate().to_owned(),
        server: authority.server_only("server").unwrap(),
        client: authority.client("other", Validity::Current).unwrap(),
    };
    let probe = run_probe(&scratch);
    let etcd = member(VERSION, "of-kubeadm", scratch.path()).tls(&tls).start().unwrap();
    put_some(&etcd.endpoint());
    assert_exact(&probe, &etcd.endpoint(), "of-kubeadm");
}

/// k3s: a process with another name and flags of its own, and etcd's settings in a file next to the data.
#[test]
fn k3s_embeds_its_etcd() {
    requirements::require(&[Need::Root, Need::Etcd(VERSION)]);
    let scratch = Scratch::on_disk("k3s").unwrap();
    let program = scratch.path().join("k3s-server");
    fs::copy(etcd::find(VERSION).unwrap(), &program).unwrap();
    let data_dir = scratch.path().join("server/db/etcd");
    let probe = run_probe(&scratch);
    let member = Member::new(&program, "by-flag", scratch.path()).data_dir(&data_dir);
    let etcd = member.tls(&Mutual::create(scratch.path()).unwrap()).start().unwrap();
    let text = etcd.settings_file().replace("by-flag", "by-k3s");
    fs::write(data_dir.join("config"), text).unwrap();
    let found = Cancel::default().wait_for(Duration::from_mins(1), || {
        Ok(probe.metrics()?.value("etcd_disk_probe_etcd_up", &[("member", "by-k3s")]).filter(|up| *up > 0.0))
    });
    assert!(found.unwrap().is_some(), "it is found by its file: {:?}", probe.metrics().unwrap());
    put_some(&etcd.endpoint());
    assert_agreed(&probe, "by-k3s");
}

/// kOps: two members with the same name on one node, configured by environment variables; the server's pair
/// is valid for clients too.
#[test]
fn kops_has_two_members_of_one_name() {
    requirements::require(&[Need::Root, Need::Etcd(VERSION)]);
    let scratch = Scratch::on_disk("kops").unwrap();
    let probe = run_probe(&scratch);
    let members = ["main", "events"].map(|which| {
        let directory = scratch.path().join(which);
        fs::create_dir(&directory).unwrap();
        let tls = Mutual::create(&directory).unwrap();
        let member = member(VERSION, "etcd-kops", &directory).tls(&tls);
        member.config_source(ConfigSource::Environment).start().unwrap()
    });
    let label = |etcd: &Etcd| format!("etcd-kops@{}", etcd.data_dir().display());
    for etcd in &members {
        put_some(&etcd.endpoint());
    }
    for etcd in &members {
        assert_exact(&probe, &etcd.endpoint(), &label(etcd));
    }
}

/// HTTP only on a socket in etcd's working directory; gRPC on a port.
#[test]
fn an_etcd_may_listen_on_a_socket() {
    requirements::require(&[Need::Root, Need::Etcd(VERSION)]);
    let scratch = Scratch::on_disk("socket").unwrap();
    let probe = run_probe(&scratch);
    for (name, scheme, tls) in [("on-socket", "unix", false), ("on-socket-tls", "unixs", true)] {
        let socket = scratch.path().join(format!("{name}.sock"));
        let member = member(VERSION, name, scratch.path()).readiness(Readiness::Listening);
        let member = member.set("listen-client-http-urls", format!("{scheme}://{}", socket.display()));
        let mutual = tls.then(|| Mutual::create(scratch.path()).unwrap());
        let etcd = mutual.iter().fold(member, Member::tls).start().unwrap();
        put_some(&etcd.endpoint());
        assert_agreed(&probe, name);
        let metrics = probe.metrics().unwrap();
        assert_eq!(metrics.value("etcd_disk_probe_etcd_up", &[("member", name)]), Some(1.0));
    }
}

/// A certificate that etcd signed itself, in its data directory.
#[test]
fn an_etcd_may_sign_for_itself() {
    requirements::require(&[Need::Root, Need::Etcd(VERSION)]);
    let scratch = Scratch::on_disk("auto-tls").unwrap();
    let probe = run_probe(&scratch);
    let http = format!("https://{}", free_address().unwrap());
    let member = member(VERSION, "signs-itself", scratch.path()).readiness(Readiness::Listening);
    let etcd = member.set("auto-tls", "true").set("listen-client-http-urls", http).start().unwrap();
    put_some(&etcd.endpoint());
    assert_agreed(&probe, "signs-itself");
    let up = probe.metrics().unwrap().value("etcd_disk_probe_etcd_up", &[("member", "signs-itself")]);
    assert_eq!(up, Some(1.0), "{}", probe.log().unwrap());
}

#[test]
fn an_etcd_in_a_container_has_its_certificates_inside() {
    requirements::require(&[&[Need::Root, Need::Etcd(VERSION)][..], &podman::NEEDS].concat());
    let scratch = Scratch::on_disk("container").unwrap();
    let probe = run_probe(&scratch);
    let name = format!("contained-{}", std::process::id());
    let etcd = Container::start(&etcd::find(VERSION).unwrap(), &name, scratch.path()).unwrap();
    assert!(!Path::new("/tls/server.pem").exists(), "its paths mean nothing out here");
    put_some(&etcd.endpoint());
    assert_exact(&probe, &etcd.endpoint(), &name);
    let labels = [("member", name.as_str()), ("data_dir", "/data")];
    assert_eq!(probe.metrics().unwrap().value("etcd_disk_probe_member_info", &labels), Some(1.0));
}
