//! The choice of the hook: the requested one or an error with the reason, and by default the cheapest that
//! works.

use std::time::Duration;

use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::{self, Finished, Invocation};

fn call(scratch: &Scratch, hook: &str) -> Invocation {
    Invocation::new(&probe::binary().unwrap(), scratch.path()).arguments(&["--hook", hook])
}

/// Runs `check` for a second.
fn check(call: &Invocation) -> Finished {
    let call = call.clone().arguments(&["--duration", "1s", "--output", "json"]);
    call.start("check").unwrap().wait(Duration::from_mins(1)).unwrap()
}

#[test]
fn auto_takes_the_cheapest_hook_that_works() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("hooks").unwrap();
    // The test does not assume what works here: with a forced hook the probe reports an error with the
    // reason.
    let works = |hook: &str| {
        let finished = check(&call(&scratch, hook));
        let starts = matches!(finished.code, Some(0..=2));
        println!("{hook}: {}", if starts { "works here" } else { finished.stderr.trim() });
        if starts {
            assert_eq!(finished.json().unwrap()["hook"], hook, "no other one is used instead");
        } else {
            assert!(matches!(finished.code, Some(69 | 77)), "{finished:?}");
            assert!(finished.stderr.contains("cannot start the kernel probe: "), "{finished:?}");
            assert_eq!(finished.stderr.lines().count(), 1, "one sentence: {finished:?}");
        }
        starts
    };
    let (fentry, tracepoint) = (works("fentry"), works("tracepoint"));
    assert!(tracepoint, "tracepoints work on every kernel");
    let expected = if fentry { "fentry" } else { "tracepoint" };
    let probe = call(&scratch, "auto").run().unwrap();
    let metrics = probe.metrics().unwrap();
    assert_eq!(metrics.value("etcd_disk_probe_hook_info", &[("hook", expected)]), Some(1.0));
    assert_eq!(metrics.value("etcd_disk_probe_self_test_success", &[]), Some(1.0));
    let log = probe.log().unwrap();
    assert_eq!(log.contains("cannot use the fentry hook"), !fentry, "{log}");
}

#[test]
fn a_kernel_without_its_types_is_refused_in_one_sentence() {
    requirements::require(&[&[Need::Root, Need::Bpf][..], &requirements::NAMESPACES].concat());
    let scratch = Scratch::on_disk("hooks").unwrap();
    let hide = "mount -t tmpfs tmpfs /sys/kernel/btf && exec \"$0\" \"$@\"";
    for hook in ["auto", "fentry", "tracepoint"] {
        let finished = check(&call(&scratch, hook).through(&["unshare", "--mount", "sh", "-c", hide]));
        assert_eq!(finished.code, Some(69), "{hook}: {finished:?}");
        let sentence = "cannot read /sys/kernel/btf/vmlinux";
        assert!(finished.stderr.contains(sentence), "{hook}: {finished:?}");
        assert_eq!(finished.stderr.lines().count(), 1, "{hook}: one sentence: {finished:?}");
    }
}
