//! The kernel's histograms contain exactly what was measured: slots, sums and maxima equal the single
//! latencies, which lie within the brackets that user space measures around the same calls.
//!
//! This test has its own process, because that process is the one that the kernel programs measure.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;

use probe_ebpf::{
    series::{OPERATIONS, Op, Role, WAL_FSYNC, series},
    state::Record,
};
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Scratch, Tmpfs};
use probe_user::kernel::{Hook, Kernel, KernelConfig, monotonic_ns};
use probe_user::latency::{Latencies, seconds};

/// Attaches for threads of this name only, with every latency in the debugging ring.
fn attach(name: &str) -> Kernel {
    let names = vec![name.to_owned()];
    let config =
        KernelConfig { process_names: names, max_targets: 4, recording: true, ..KernelConfig::default() };
    Kernel::attach(Hook::Tracepoint, &config).unwrap()
}

/// Runs on a thread of that name, as an etcd whose files are in a separate directory.
fn as_etcd<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name(name.to_owned());
        builder.spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

/// Writes to a segment and syncs it; returns the time bracket around each sync.
fn sync_often(directory: &Path, segment: &str, times: usize) -> Vec<(u64, u64)> {
    let mut file = File::create(directory.join(segment)).unwrap();
    let mut sync = |n: usize| {
        // Occasional larger writes vary the latencies.
        file.write_all(&vec![0; 64 << (n % 9)]).unwrap();
        let before_ns = monotonic_ns();
        file.sync_data().unwrap();
        (before_ns, monotonic_ns())
    };
    (0..times).map(&mut sync).collect()
}

fn of_series(records: &[Record], series: u32) -> Vec<Record> {
    records.iter().filter(|record| record.series == series).copied().collect()
}

fn fold(records: &[Record]) -> Latencies {
    let mut all = Latencies::default();
    for record in records {
        all.record(record.latency_ns);
    }
    all
}

#[test]
fn every_latency_is_where_it_belongs() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("histogram").unwrap();
    let directory = scratch.path().join("wal");
    fs::create_dir(&directory).unwrap();
    let mut kernel = attach("one-of-etcd");
    let brackets =
        as_etcd("one-of-etcd", || sync_often(&directory, "0000000000000000-0000000000000000.wal", 1_000));

    let process = kernel.processes().into_iter().find(|process| process.pid == std::process::id()).unwrap();
    let records = kernel.records();
    let fdatasync = series(Role::Wal, Op::Fdatasync).unwrap();
    let syncs = of_series(&records, fdatasync);
    assert_eq!(syncs.len(), brackets.len(), "one record a sync");
    for (n, (record, (before_ns, after_ns))) in syncs.iter().zip(&brackets).enumerate() {
        let entered_ns = record.recorded_ns - record.latency_ns;
        assert!(
            *before_ns <= entered_ns && record.recorded_ns <= *after_ns,
            "sync {n}: {record:?} is not within {before_ns} to {after_ns}"
        );
    }
    let measured = kernel.latencies(process.target, fdatasync);
    assert_eq!(measured, fold(&syncs), "slots, sum and maximum equal the single latencies");
    assert_eq!(
        kernel.latencies(process.target, WAL_FSYNC),
        measured,
        "the twin of etcd's figure holds the same"
    );
    assert_eq!(kernel.entered(process.target, WAL_FSYNC), measured.count());

    let written = kernel.latencies(process.target, series(Role::Wal, Op::Write).unwrap());
    let bytes: u64 = (0..1_000).map(|n| 64 << (n % 9)).sum();
    assert_eq!((written.count(), written.bytes), (1_000, bytes), "every write and every byte");

    let mut sorted: Vec<u64> = syncs.iter().map(|record| record.latency_ns).collect();
    sorted.sort_unstable();
    for (q, rank) in [(0.5, 499), (0.99, 989), (0.999, 998)] {
        let (reported_s, exact_s) = (measured.quantile(q).unwrap(), seconds(sorted[rank]));
        println!("p{q}: {reported_s} s for {exact_s} s");
        assert!((reported_s - exact_s).abs() <= exact_s / 64.0, "p{q}: {reported_s} for {exact_s}");
    }
}

#[test]
fn no_addition_is_lost_between_cpus() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("parallel").unwrap();
    let memory = Tmpfs::mount(&scratch.path().join("wal"), 256).unwrap();
    let mut kernel = attach("many-of-etcd");
    thread::scope(|scope| {
        for n in 0..4 {
            let segment = format!("{n:016x}-0000000000000000.wal");
            let directory = memory.path();
            let builder = thread::Builder::new().name("many-of-etcd".to_owned());
            builder.spawn_scoped(scope, move || sync_often(directory, &segment, 5_000)).unwrap();
        }
    });
    let process = kernel.processes().into_iter().find(|process| process.pid == std::process::id()).unwrap();
    let records = kernel.records();
    for (position, (role, op)) in (0..).zip(OPERATIONS) {
        let folded = fold(&of_series(&records, position));
        let measured = kernel.latencies(process.target, position);
        let why = format!("{} {}", role.as_str(), op.as_str());
        assert_eq!(measured.sum_ns, folded.sum_ns, "{why}");
        assert_eq!(measured.count(), folded.count(), "{why}");
    }
    let syncs = kernel.latencies(process.target, WAL_FSYNC);
    assert_eq!(syncs.count(), 20_000, "four threads, 5,000 syncs each");
    assert_eq!(kernel.entered(process.target, WAL_FSYNC), 20_000);
    assert!(kernel.in_flight().is_empty(), "all have returned: {:?}", kernel.in_flight());
    assert!(kernel.misses().iter().all(|(_, count)| *count == 0), "{:?}", kernel.misses());
}
