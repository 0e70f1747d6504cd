//! Fixture processes and cgroups, read twice.

use std::path::Path;

use super::*;
use crate::{
    support::fixture::Tree,
    system::cgroups::{Membership, Roots},
};

const STAT: &str = "42 (etcd) S 1 42 42 0 -1 4194560 2500 0 17 0 30 20 0 0 20 0 9 0 1234 11000000 6000 \
    18446744073709551615 1 1 0 0 0 0 0 0 2143420159 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

/// Two cgroup levels of version 2, both with a limit.
fn v2() -> (Tree, Membership, Roots) {
    let tree = Tree::with(&[
        ("cg/pod/etcd/cpu.stat", "usage_usec 1\nnr_periods 100\nnr_throttled 10\nthrottled_usec 5000\n"),
        ("cg/pod/etcd/cpu.max", "200000 100000\n"),
        ("cg/pod/cpu.stat", "usage_usec 1\nnr_periods 100\nnr_throttled 20\nthrottled_usec 1000\n"),
        ("cg/pod/cpu.max", "50000 100000\n"),
        ("cg/cpu.stat", "usage_usec 1\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"),
        ("cg/pod/etcd/memory.events", "low 0\nhigh 1\nmax 2\noom 0\noom_kill 0\n"),
        ("cg/pod/etcd/io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=700\n"),
        ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000\n"),
        ("proc/42/stat", STAT),
        ("proc/42/task/42/schedstat", "1000 200 3\n"),
        ("proc/42/task/43/schedstat", "500 100 3\n"),
    ]);
    let roots = Roots { unified: Some(tree.join("cg")), ..Roots::default() };
    (tree, Membership { unified: Some("/pod/etcd".to_owned()), ..Membership::default() }, roots)
}

#[test]
fn the_difference_of_two_readings_is_the_starvation() {
    let (tree, membership, roots) = v2();
    let read = || Reading::read(42, &tree.join("proc"), &membership, &roots);
    let earlier = read();
    tree.write("cg/pod/etcd/cpu.stat", "nr_periods 110\nnr_throttled 11\nthrottled_usec 6000\n");
    tree.write("cg/pod/cpu.stat", "nr_periods 110\nnr_throttled 25\nthrottled_usec 41000\n");
    tree.write("cg/pod/etcd/memory.events", "high 4\nmax 2\noom 1\n");
    tree.write("cg/pod/etcd/io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=750\n");
    tree.write("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1900\n");
    tree.write("proc/42/stat", &STAT.replace(" 17 0 30", " 19 0 30"));
    tree.write("proc/42/task/42/schedstat", "1500 250 4\n");
    let starvation = read().since(&earlier);
    assert_eq!(
        starvation,
        Starvation {
            throttling: Some(Throttling {
                cgroup: "/pod".to_owned(),
                periods: 10,
                throttled_periods: 5,
                throttled_ns: 40_000_000,
            }),
            quota: Some(Quota { cgroup: "/pod".to_owned(), cpus: 0.5 }),
            run_delay_ns: Some(50),
            run_ns: Some(500),
            machine: Pressure { cpu_us: Some(900), ..Pressure::default() },
            cgroup: Pressure { io_us: Some(50), ..Pressure::default() },
            memory: MemoryEvents { high: Some(3), max: Some(0), oom: Some(1) },
            major_faults: Some(2),
        }
    );
}

#[test]
fn version_1_has_other_files() {
    let tree = Tree::with(&[
        ("cpu/etcd/cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 5000000\n"),
        ("cpu/etcd/cpu.cfs_quota_us", "10000\n"),
        ("cpu/etcd/cpu.cfs_period_us", "100000\n"),
        ("memory/m/memory.failcnt", "7\n"),
    ]);
    let roots = Roots {
        v1: ["cpu", "memory"].map(|name| (name.to_owned(), tree.join(name))).into(),
        ..Roots::default()
    };
    let v1 = [("cpu".to_owned(), "/etcd".to_owned()), ("memory".to_owned(), "/m".to_owned())].into();
    let membership = Membership { v1, unified: Some("/".to_owned()) };
    let reading = Reading::read(42, &tree.join("proc"), &membership, &roots);
    assert_eq!(reading.throttling.first().map(|throttling| throttling.throttled_ns), Some(5_000_000));
    assert_eq!(reading.quota, Some(Quota { cgroup: "/etcd".to_owned(), cpus: 0.1 }));
    assert_eq!(reading.memory, MemoryEvents { max: Some(7), ..MemoryEvents::default() });
}

#[test]
fn a_missing_file_is_unknown() {
    let reading = Reading::read(42, Path::new("/nowhere"), &Membership::default(), &Roots::default());
    assert_eq!(reading, Reading::default());
    assert_eq!(reading.since(&reading), Starvation::default());
    let (tree, membership, roots) = v2();
    let whole = Reading::read(42, &tree.join("proc"), &membership, &roots);
    assert_eq!(whole.since(&reading), Starvation { quota: whole.quota.clone(), ..Starvation::default() });
    tree.write("proc/42/task/42/schedstat", "0 0 0\n");
    tree.write("proc/42/task/43/schedstat", "0 0 0\n");
    assert_eq!(Reading::read(42, &tree.join("proc"), &membership, &roots).threads, None, "accounting is off");
}

#[test]
fn a_counter_that_decreased_is_ignored() {
    let at = |periods: u64, faults: u64| Reading {
        throttling: vec![Throttling { cgroup: "/a".to_owned(), periods, ..Throttling::default() }],
        major_faults: Some(faults),
        ..Reading::default()
    };
    assert_eq!(at(1, 1).since(&at(2, 2)), Starvation::default());
    assert!(at(2, 2).since(&at(1, 1)).throttling.is_some());
}

#[test]
fn threads_come_and_go() {
    let times = |threads: &[(u32, u64, u64)]| Reading {
        threads: Some(
            threads
                .iter()
                .map(|&(id, run_ns, run_delay_ns)| (id, ThreadTimes { run_ns, run_delay_ns }))
                .collect(),
        ),
        ..Reading::default()
    };
    let cases = [
        (vec![(1, 10, 5)], vec![(1, 15, 7)], (5, 2), "the plain case"),
        (vec![(1, 10, 5), (2, 1000, 1000)], vec![(1, 15, 7)], (5, 2), "one ended"),
        (vec![(1, 10, 5)], vec![(1, 15, 7), (3, 4, 1)], (9, 3), "one started"),
        (vec![(1, 10, 5), (2, 1000, 1000)], vec![(1, 10, 5), (2, 3, 1)], (3, 1), "its id was reused"),
    ];
    for (earlier, later, expected, why) in cases {
        let starvation = times(&later).since(&times(&earlier));
        assert_eq!(
            (starvation.run_ns, starvation.run_delay_ns),
            (Some(expected.0), Some(expected.1)),
            "{why}"
        );
    }
}

#[test]
fn this_process_runs() {
    let proc = Path::new("/proc");
    let (pid, roots) = (std::process::id(), Roots::read(proc));
    let reading = Reading::read(pid, proc, &Membership::of_process(pid, proc).unwrap(), &roots);
    let later = Reading::read(pid, proc, &Membership::of_process(pid, proc).unwrap(), &roots);
    assert!(reading.major_faults.is_some());
    assert!(later.since(&reading).major_faults.is_some());
}
