//! The findings of `doctor` about this machine and its etcd processes, with and without the privileges, files
//! and etcd that it inspects.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use probe_tests::etcd::certs::{Authority, Mutual, Pair, Validity};
use probe_tests::etcd::{self, Etcd, Member, Namespaces, Readiness};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::requirements::{self, NAMESPACES, Need};
use probe_tests::machine::scratch::{Scratch, Tmpfs};
use probe_tests::probe::loaded_programs;
use probe_tests::probe::{self, Finished, Invocation};
use serde_json::Value;

/// The findings that every machine has, even if much is missing.
const LINES: [&str; 18] = [
    "version",
    "BTF",
    "lockdown",
    "tracefs",
    "ftrace_enabled",
    "perf_event_paranoid",
    "unprivileged_bpf_disabled",
    "cgroups",
    "user",
    "user namespace",
    "pid namespace",
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_SYS_PTRACE",
    "CAP_DAC_READ_SEARCH",
    "CAP_SYS_ADMIN",
    "locked memory",
    "tracepoint",
];

const NOBODY: [&str; 5] =
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];

fn call(scratch: &Scratch) -> Invocation {
    Invocation::new(&probe::binary().unwrap(), scratch.path())
}

fn member(version: &str, name: &str, scratch: &Scratch) -> Member {
    Member::new(&etcd::find(version).unwrap(), name, scratch.path())
}

/// Returns certificates where that of one side has another validity.
fn certificates(scratch: &Scratch, server: Validity, client: Validity) -> Mutual {
    let authority = Authority::create(scratch.path(), "ca").unwrap();
    Mutual {
        server: authority.server("server", &[], server).unwrap(),
        client: authority.client("client", client).unwrap(),
        authority: authority.certificate().to_owned(),
    }
}

fn flags(pair: &Pair) -> [&str; 4] {
    ["--cert", pair.certificate.to_str().unwrap(), "--key", pair.key.to_str().unwrap()]
}

/// Runs it to completion; nothing remains in the kernel.
fn examine(call: &Invocation) -> Finished {
    let orphans = loaded_programs::orphans().unwrap();
    let finished = call.start("doctor").unwrap().wait(Duration::from_mins(1)).unwrap();
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

/// Returns the findings as JSON, compared with the text of a second run, and the exit code.
fn findings(call: &Invocation) -> (Vec<Value>, i32) {
    let text = examine(call);
    println!("{}", text.stdout);
    let json = examine(&call.clone().arguments(&["--output", "json"]));
    assert_eq!(text.code, json.code, "the output does not decide: {text:?}");
    let diagnosis = json.json().unwrap();
    assert_eq!(diagnosis["schema"], 1);
    let findings = diagnosis["findings"].as_array().expect("findings are a list").clone();
    for what in LINES {
        assert!(findings.iter().any(|finding| finding["what"] == what), "{what} is missing: {findings:#?}");
        assert!(text.stdout.contains(&format!("\n  {what} ")), "{what} is missing: {}", text.stdout);
    }
    let lines = text.stdout.lines().filter(|line| line.starts_with("  ")).count();
    assert_eq!(lines, findings.len(), "one line each: {}", text.stdout);
    let code = json.code.expect("it was not killed");
    assert_eq!(diagnosis["fit"], code <= 1, "{diagnosis:#}");
    if code <= 1 {
        let acute =
            findings.iter().any(|finding| finding["state"] == "warning" || finding["state"] == "failed");
        assert_eq!(code, i32::from(acute), "1 if the operator must act: {findings:#?}");
    }
    (findings, code)
}

/// Returns the finding on a subject: of a member if one is named, else of the machine.
fn states(findings: &[Value], member: Option<&Etcd>, what: &str) -> Vec<(String, String)> {
    let group = member.map(|etcd| format!("etcd {}, pid {}", etcd.name(), etcd.pid()));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    findings
        .iter()
        .filter(|finding| {
            finding["what"] == what && group.as_deref().is_none_or(|group| finding["group"] == group)
        })
        .map(|finding| (text(finding, "state"), text(finding, "detail") + " " + &text(finding, "advice")))
        .collect()
}

/// Asserts that exactly one line reports a subject, and checks it.
fn assert_line(findings: &[Value], member: Option<&Etcd>, what: &str, state: &str, part: &str) {
    let said = states(findings, member, what);
    assert_eq!(said.len(), 1, "one line about {what}: {findings:#?}");
    assert_eq!(said[0].0, state, "{what}: {said:?}");
    assert!(said[0].1.contains(part), "{what}: {part:?} in {said:?}");
}

#[test]
fn a_member_is_reported_with_disk_endpoint_and_certificates() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    for version in ["3.4", "3.5.16"] {
        let scratch = Scratch::on_disk("doctor").unwrap();
        let tls = certificates(&scratch, Validity::Current, Validity::Ending);
        let memory = Tmpfs::mount(&scratch.path().join("memory"), 200).unwrap();
        let wal = memory.path().join("wal");
        let etcd = member(version, "examined", &scratch).tls(&tls).wal_dir(&wal).start().unwrap();
        let loaded = loaded_programs::loaded().unwrap();

        let (found, _) = findings(&call(&scratch));
        let (data, disk) =
            (etcd.data_dir().display(), filesystem(fs::metadata(etcd.data_dir()).unwrap().dev()));
        assert_line(&found, Some(&etcd), "data", "ok", &format!("{data}, {disk} on "));
        assert_line(&found, Some(&etcd), "WAL", "ok", &format!("{}, tmpfs on ", wal.display()));
        let answers = format!("{} answers: etcd {version}", etcd.endpoint().url());
        assert_line(&found, Some(&etcd), "endpoint", "ok", &answers);
        assert_line(&found, Some(&etcd), "authority", "ok", "ca.pem is valid for 365 days");
        assert_line(&found, Some(&etcd), "certificate", "ok", "server.pem is valid for 365 days");
        assert!(loaded_programs::loaded().unwrap().is_subset(&loaded), "version {version}: it loads nothing");

        // The certificate that the flags specify, not etcd's own.
        let (found, code) = findings(&call(&scratch).arguments(&flags(&tls.client)));
        assert_line(&found, Some(&etcd), "server certificate", "ok", "server.pem is valid for 365 days");
        assert_line(&found, Some(&etcd), "client certificate", "warning", "client.pem is valid for 10 days");
        assert_line(&found, Some(&etcd), "endpoint", "ok", &answers);
        assert_eq!(code, 1, "the operator must renew it");
    }
}

/// Returns the file system with this device number from the kernel's list of mounts.
fn filesystem(device: u64) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let number = format!(" {}:{} ", rustix::fs::major(device), rustix::fs::minor(device));
    let line = mounts.lines().find(|line| line.contains(&number)).expect("the device is mounted");
    let (_, kind) = line.split_once(" - ").expect("mountinfo has a separator");
    kind.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn expired_certificates_are_reported_with_their_effect() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    for version in ["3.4", "3.5.16"] {
        let scratch = Scratch::on_disk("doctor").unwrap();
        let tls = certificates(&scratch, Validity::Expired, Validity::Expired);
        let etcd =
            member(version, "expired", &scratch).tls(&tls).readiness(Readiness::Listening).start().unwrap();
        wait_for_wal(&etcd);
        let (found, code) = findings(&call(&scratch).arguments(&flags(&tls.client)));
        assert_line(&found, Some(&etcd), "server certificate", "failed", ", 1 day ago renew it");
        assert_line(&found, Some(&etcd), "client certificate", "failed", "client.pem expired on ");
        assert_line(&found, Some(&etcd), "authority", "ok", "ca.pem is valid for ");
        let sentence = "cannot verify etcd's certificate: it has expired";
        assert_line(&found, Some(&etcd), "endpoint", "failed", sentence);
        assert_eq!(code, 1, "it can measure, and cannot cross-check");
    }
}

/// A member that only listens may not have created its WAL yet.
fn wait_for_wal(etcd: &Etcd) {
    let wal = etcd.data_dir().join("member/wal/0000000000000000-0000000000000000.wal");
    let there = Cancel::default().wait_for(Duration::from_mins(1), || Ok(wal.exists().then_some(())));
    assert!(there.unwrap().is_some(), "no {}", wal.display());
}

#[test]
fn a_member_in_namespaces_is_scraped_inside() {
    requirements::require(&NAMESPACES);
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("doctor").unwrap();
    let member = member("3.5.16", "inside", &scratch).inside(Namespaces::over(scratch.path()));
    let etcd = member.readiness(Readiness::Listening).start();
    // It is not reachable from here, so the test can only wait for its WAL.
    let etcd = etcd.unwrap();
    wait_for_wal(&etcd);
    let (found, _) = findings(&call(&scratch));
    assert_line(&found, Some(&etcd), "endpoint", "ok", "answers: etcd 3.5.16");
    assert_line(&found, Some(&etcd), "WAL", "ok", "/mnt/etcd/inside.etcd/member/wal");
}

#[test]
fn the_endpoint_of_another_etcd_is_not_taken_for_an_answer() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.4"), Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("doctor").unwrap();
    let one = member("3.4", "one", &scratch).start().unwrap();
    thread::sleep(Duration::from_secs(2)); // Their start times distinguish them, to a second.
    let other = member("3.5.16", "other", &scratch).start().unwrap();
    let (found, code) = findings(&call(&scratch).arguments(&["--endpoints", &other.endpoint().url()]));
    assert_line(&found, Some(&one), "endpoint", "failed", "another process answers");
    assert_line(&found, Some(&other), "endpoint", "ok", "answers: etcd 3.5.16");
    assert_eq!(code, 1, "one of them cannot be cross-checked");
}

#[test]
fn no_etcd_is_no_failure() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("doctor").unwrap();
    let (found, _) = findings(&call(&scratch).arguments(&["--process-name", "no-such-etcd"]));
    assert_line(&found, None, "etcd", "note", "no etcd process runs here if one runs with another name");
    let taken: Vec<_> = ["fentry", "tracepoint"]
        .into_iter()
        .flat_map(|hook| states(&found, None, hook))
        .filter(|(state, said)| state == "ok" && said.contains("passed the self-test"))
        .collect();
    assert!(!taken.is_empty(), "a hook works here: {found:#?}");
}

#[test]
fn an_ordinary_user_learns_the_required_privileges() {
    requirements::require(&[Need::Root, Need::Etcd("3.5.16"), Need::Tool("setpriv", "util-linux")]);
    let scratch = Scratch::on_disk("doctor").unwrap();
    let etcd = member("3.5.16", "closed", &scratch).start().unwrap();
    // A directory that an ordinary user may read.
    let program = scratch.path().join("etcd-disk-probe");
    fs::copy(probe::binary().unwrap(), &program).unwrap();
    let (found, code) = findings(&Invocation::new(&program, scratch.path()).through(&NOBODY));
    assert_eq!(code, 77, "the exit code of the daemon");
    assert_line(&found, None, "user", "note", "65534");
    assert_line(&found, None, "CAP_BPF", "failed", "capabilities.add");
    assert_line(&found, None, "CAP_SYS_PTRACE", "warning", "settings, descriptors");
    assert_line(&found, None, "tracepoint", "failed", "CAP_BPF and CAP_PERFMON are missing: run as root");
    let unreadable = states(&found, None, "etcd");
    let mine = format!(" of process {}: ", etcd.pid());
    assert!(
        unreadable.iter().any(|(state, said)| state == "warning" && said.contains(&mine)),
        "{unreadable:?}"
    );
}

#[test]
fn a_missing_property_changes_only_its_own_line() {
    requirements::require(&NAMESPACES);
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("doctor").unwrap();
    let no_btf =
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /sys/kernel/btf && exec \"$@\"", "sh"];
    let own_pids = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let no_privilege = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let rootless = ["unshare", "--user", "--map-root-user"];
    let cases = [
        (&no_btf[..], 69, "BTF", "CONFIG_DEBUG_INFO_BTF", "no BTF"),
        (&own_pids, 69, "pid namespace", "hostPID: true", "a pid namespace"),
        (&no_privilege, 77, "CAP_PERFMON", "CapabilityBoundingSet=", "root without capabilities"),
        (&rootless, 77, "user namespace", "hostUsers: true", "root of a rootless container"),
    ];
    let nobody = call(&scratch).arguments(&["--process-name", "no-such-etcd"]);
    let (whole, _) = findings(&nobody);
    for (prefix, expected, what, advice, why) in cases {
        let (found, code) = findings(&nobody.clone().through(prefix));
        assert_eq!(code, expected, "{why}");
        assert_line(&found, None, what, "failed", advice);
        let named = |findings: &[Value]| -> BTreeSet<String> {
            findings.iter().map(|finding| finding["what"].to_string()).collect()
        };
        assert_eq!(named(&found), named(&whole), "{why}: every other line is still there");
    }
}
