//! The probe's privileges: those required to start, the error for each missing capability, and the few that
//! remain after attaching.

use std::fs;
use std::path::Path;
use std::time::Duration;

use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Member};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::process;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Scratch, Tracefs};
use probe_tests::probe::crosscheck;
use probe_tests::probe::least_privilege::{self, MissingCapability};
use probe_tests::probe::{self, Invocation, Probe};
use rustix::thread::CapabilitySet;

const READING: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// The capabilities for loading and attaching here, where tracefs may have to be mounted.
const STARTING: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::PERFMON).union(CapabilitySet::SYS_ADMIN);

/// A user without any files, on every system.
const NOBODY: u32 = 65534;

fn call(scratch: &Scratch) -> Invocation {
    Invocation::new(&probe::binary().unwrap(), scratch.path()).arguments(&["--scrape-interval", "200ms"])
}

/// Returns name and status file of every thread of a process.
fn threads(pid: u32) -> Vec<(String, std::path::PathBuf)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(|task| task.path());
    let named = |task: std::path::PathBuf| {
        Some((fs::read_to_string(task.join("comm")).ok()?.trim().to_owned(), task.join("status")))
    };
    tasks.filter_map(named).collect()
}

fn assert_dropped(probe: &Probe, why: &str) {
    let threads = threads(probe.pid());
    // Only one thread may enter a network namespace, and starts the threads that do; another reads the stacks
    // of other processes.
    let privileged = ["namespaces", "stacks"];
    for expected in privileged {
        assert!(threads.iter().any(|(name, _)| name == expected), "{why}: {threads:?}");
    }
    for (name, status) in &threads {
        let set = |field| process::capabilities(status, field).unwrap();
        let is_privileged = privileged.contains(&name.as_str());
        let allowed = if is_privileged { READING | CapabilitySet::SYS_ADMIN } else { READING };
        for field in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(set(field), allowed, "{why}: {field} of thread {name}");
        }
        for field in ["CapInh", "CapAmb"] {
            assert_eq!(set(field), CapabilitySet::empty(), "{why}: {field} of thread {name}");
        }
        let text = fs::read_to_string(status).unwrap();
        assert!(text.contains("NoNewPrivs:\t1\n"), "{why}: thread {name}: {text}");
    }
}

#[test]
fn what_is_left_after_attaching_can_only_read() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("privileges").unwrap();
    let probe = call(&scratch).run().unwrap();
    assert_dropped(&probe, "at rest");
    // Members are discovered, measured and dropped with the remaining privileges.
    let member = Member::new(&etcd::find("3.5.16").unwrap(), "few-privileges", scratch.path());
    let mut etcd = member.start().unwrap();
    let load = Load { amount: Amount::Puts(300), connections: 2, value_bytes: 512, ..Load::default() };
    load.start(etcd.endpoint()).wait().unwrap();
    crosscheck::settle(&probe, "few-privileges").unwrap();
    assert_dropped(&probe, "with a member");
    etcd.stop().unwrap();
    let gone = Cancel::default()
        .wait_for(Duration::from_secs(30), || Ok(probe.log()?.contains("member ended").then_some(())));
    assert!(gone.unwrap().is_some(), "{:?}", probe.log());
    assert!(!probe.log().unwrap().contains("keeps its place"), "{:?}", probe.log());
}

#[test]
fn the_least_that_is_documented_is_enough() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("privileges").unwrap();
    let probe = call(&scratch).capabilities(STARTING | READING).run().unwrap();
    let member = Member::new(&etcd::find("3.5.16").unwrap(), "least", scratch.path());
    let etcd = member.start().unwrap();
    let load = Load { amount: Amount::Puts(300), connections: 2, value_bytes: 512, ..Load::default() };
    load.start(etcd.endpoint()).wait().unwrap();
    crosscheck::settle(&probe, "least").unwrap();
}

#[test]
fn each_capability_that_is_missing_has_a_sentence_of_its_own() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Tool("mount", "mount")]);
    let scratch = Scratch::on_disk("privileges").unwrap();
    let probe = probe::binary().unwrap();
    let names =
        |missed: &[MissingCapability]| missed.iter().map(|missed| missed.capability).collect::<Vec<_>>();
    let unmounted = least_privilege::needed_to_start(&probe, scratch.path(), "tracepoint").unwrap();
    // If tracefs is already mounted, there is nothing to mount here.
    let mounted = Path::new("/sys/kernel/tracing/events").exists();
    let tracefs = (!mounted).then(|| Tracefs::mount().unwrap());
    let with_tracefs = least_privilege::needed_to_start(&probe, scratch.path(), "tracepoint").unwrap();
    drop(tracefs);
    for MissingCapability { capability, sentence } in unmounted.iter().chain(&with_tracefs) {
        println!("without {capability}: {sentence}");
    }
    if !mounted {
        assert_eq!(names(&unmounted), ["CAP_SYS_ADMIN"]);
    }
    assert_eq!(names(&with_tracefs), ["CAP_BPF", "CAP_PERFMON"]);
}

#[test]
fn a_process_that_may_not_be_read_names_the_capability() {
    requirements::require(&[
        Need::Root,
        Need::Bpf,
        Need::Etcd("3.5.16"),
        Need::Tool("setpriv", "util-linux"),
    ]);
    let scratch = Scratch::on_disk("privileges").unwrap();
    // An etcd of another user, as in the unit of a distribution's package: its directory and its `/proc` are
    // closed to all others.
    let home = scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    let binary = home.join("etcd");
    fs::copy(etcd::find("3.5.16").unwrap(), &binary).unwrap();
    let etcd = Member::new(&binary, "another-users", &home).as_user(NOBODY).start().unwrap();
    let cases = [
        (CapabilitySet::SYS_PTRACE, "this needs CAP_SYS_PTRACE"),
        (CapabilitySet::DAC_READ_SEARCH, "this needs CAP_DAC_READ_SEARCH"),
    ];
    for (missing, sentence) in cases {
        let held = (STARTING | READING).difference(missing);
        let call = Invocation::new(&probe::binary().unwrap(), scratch.path()).capabilities(held);
        let check = call.arguments(&["--duration", "1s"]).start("check").unwrap();
        let finished = check.wait(Duration::from_mins(1)).unwrap();
        assert_eq!(finished.code, Some(2), "{finished:?}");
        assert!(finished.stderr.contains(sentence), "{sentence}: {finished:?}");
        let named = format!("process {}", etcd.pid());
        assert!(finished.stderr.contains(&named), "the process is named: {finished:?}");
    }
}
