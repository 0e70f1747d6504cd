//! The error of quantiles computed from buckets, compared with the single latencies, over syncs of a real
//! file system.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, ensure};
use probe_ebpf::histogram::{SLOTS, edge_seconds};
use probe_ebpf::series::{Op, Role, WAL_FSYNC, series};
use probe_tests::machine::scratch::Scratch;
use probe_user::kernel::{Hook, Kernel, KernelConfig};
use probe_user::latency::BOUNDS_NS;

use crate::Options;
use crate::figures::{Spread, quantile};
use crate::table::{Cell, Table};

/// Syncs of one run.
const SYNCS: usize = 6000;

const RUNS: usize = 3;

/// The name of the thread that imitates etcd.
const NAME: &str = "bench-etcd";

/// The bucket bounds for quantiles.
const OURS: &str = "the probe's, middle of a slot (its report)";
const OURS_INTERPOLATED: &str = "the probe's, interpolated";
const EXPORTED: &str = "the probe's metrics, interpolated";
const POWERS_OF_TWO: &str = "powers of two, interpolated";
const ETCDS: &str = "etcd's own, interpolated";

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

pub fn run(options: &Options, hook: Hook) -> anyhow::Result<Vec<Table>> {
    let scratch = Scratch::new(&options.directory, "accuracy")?;
    let config = KernelConfig {
        process_names: vec![NAME.to_owned()],
        max_targets: 4,
        recording: true,
        ..KernelConfig::default()
    };
    let mut kernel = Kernel::attach(hook, &config).context("cannot attach the probe")?;
    let mut errors: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let mut exact_ms: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut before = None;
    for run in 0..RUNS {
        sync_beside_another(scratch.path(), run)?;
        let own = std::process::id();
        let process = kernel.processes().into_iter().find(|process| process.pid == own);
        let process = process.context("the probe has not recorded the syncs")?;
        let total = kernel.latencies(process.target, WAL_FSYNC);
        let measured = before.replace(total.clone()).map_or(total.clone(), |before| total.since(&before));
        // The series for etcd's metric is not recorded separately; it contains the syncs of segments.
        let mut exact = latencies(&mut kernel);
        exact.sort_unstable();
        ensure!(
            exact.len() as u64 == measured.count(),
            "{} latencies, and {} in the histogram",
            exact.len(),
            measured.count()
        );
        ensure!(exact.len() == SYNCS, "{} latencies of {SYNCS} syncs", exact.len());
        for (name, q) in QUANTILES {
            let truth = quantile(&exact, q).context("there are latencies")? as f64;
            exact_ms.entry(name).or_default().push(truth / 1e6);
            let reported = [
                (OURS, measured.quantile(q).map(|seconds| seconds * 1e9)),
                (OURS_INTERPOLATED, interpolated(&exact, q, &edges())),
                (EXPORTED, interpolated(&exact, q, &BOUNDS_NS.map(|ns| ns as f64))),
                (POWERS_OF_TWO, interpolated(&exact, q, &powers_of_two())),
                (ETCDS, interpolated(&exact, q, &etcds_bounds())),
            ];
            for (buckets, reported) in reported {
                let error = (reported.context("there are latencies")? / truth - 1.0).abs() * 100.0;
                errors.entry((buckets, name)).or_default().push(error);
            }
        }
    }
    Ok(vec![table(&errors, &exact_ms)])
}

fn table(errors: &BTreeMap<(&str, &str), Vec<f64>>, exact_ms: &BTreeMap<&str, Vec<f64>>) -> Table {
    let title = format!(
        "error of a quantile read from buckets, in percent: mean and worst of {RUNS} runs of {SYNCS} syncs"
    );
    let names = QUANTILES.iter().flat_map(|(name, _)| [format!("{name}: mean"), format!("{name}: worst")]);
    let mut table = Table::new(title, ["buckets".to_owned()].into_iter().chain(names));
    let exact = QUANTILES.iter().flat_map(|(name, _)| [Spread::of(&exact_ms[name]).into(), Cell::Nothing]);
    table.row(["(exact, ms)".into()].into_iter().chain(exact));
    for buckets in [OURS, OURS_INTERPOLATED, EXPORTED, POWERS_OF_TWO, ETCDS] {
        let cells = QUANTILES.iter().flat_map(|(name, _)| {
            let all = &errors[&(buckets, *name)];
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            [mean.into(), all.iter().copied().reduce(f64::max).into()]
        });
        table.row([buckets.into()].into_iter().chain(cells));
    }
    table
}

/// Returns the single latencies of segment syncs since the last call.
fn latencies(kernel: &mut Kernel) -> Vec<u64> {
    let syncs = series(Role::Wal, Op::Fdatasync);
    let of_syncs = kernel.records().into_iter().filter(|record| Some(record.series) == syncs);
    of_syncs.map(|record| record.latency_ns).collect()
}

/// Appends to a segment and syncs it while another thread keeps the disk busy, as etcd's backend does.
///
/// A process has one directory of segments, so every run has a segment there.
fn sync_beside_another(directory: &Path, run: usize) -> anyhow::Result<()> {
    let wal = directory.join("wal");
    fs::create_dir_all(&wal).with_context(|| format!("cannot create {}", wal.display()))?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let busy = scope.spawn(|| -> anyhow::Result<()> {
            let mut file = File::create(directory.join("another"))?;
            while !over.load(Ordering::Relaxed) {
                file.write_all(&vec![0; 64 << 10])?;
                file.sync_data()?;
            }
            Ok(())
        });
        let syncs =
            thread::Builder::new().name(NAME.to_owned()).spawn_scoped(scope, || -> anyhow::Result<()> {
                let mut file = File::create(wal.join(format!("{run:016x}-0000000000000000.wal")))?;
                for n in 0..SYNCS {
                    file.write_all(&vec![0; 64 << (n % 9)])?;
                    file.sync_data()?;
                }
                Ok(())
            });
        let ended = syncs.context("cannot start a thread")?.join();
        over.store(true, Ordering::Relaxed);
        busy.join().expect("a writer does not panic").context("cannot keep the disk busy")?;
        ended.expect("a writer does not panic").context("cannot sync")
    })
}

/// The probe's own bounds.
fn edges() -> Vec<f64> {
    (0..SLOTS).map(|slot| edge_seconds(slot) * 1e9).collect()
}

/// The bounds of bcc, bpftrace and `ebpf_exporter`, from 1 µs.
fn powers_of_two() -> Vec<f64> {
    (0..27).map(|power| 1e3 * f64::from(1_u32 << power)).collect()
}

/// The bounds of `etcd_disk_wal_fsync_duration_seconds`, from 1 ms.
fn etcds_bounds() -> Vec<f64> {
    (0..14).map(|power| 1e6 * f64::from(1_u32 << power)).collect()
}

/// Returns a quantile as Prometheus' `histogram_quantile` computes it from buckets with these upper bounds:
/// latencies are spread evenly within a bucket, and latencies above the last bound count as that bound.
fn interpolated(latencies_ns: &[u64], q: f64, bounds_ns: &[f64]) -> Option<f64> {
    let at_most = |bound: f64| latencies_ns.iter().filter(|ns| **ns as f64 <= bound).count() as f64;
    let rank = q * latencies_ns.len() as f64;
    let Some(bucket) = bounds_ns.iter().position(|bound| at_most(*bound) >= rank) else {
        return bounds_ns.last().copied();
    };
    let (upper, lower) = (bounds_ns[bucket], if bucket == 0 { 0.0 } else { bounds_ns[bucket - 1] });
    let (until, below) = (at_most(upper), if bucket == 0 { 0.0 } else { at_most(lower) });
    (until > below).then(|| lower + (upper - lower) * (rank - below) / (until - below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_spread_within_a_bucket() {
        let latencies = [100, 1100, 1200, 1300, 5000];
        let cases = [
            (0.2, Some(1000.0), "all of the first bucket"),
            (0.5, Some(1500.0), "half way through the second"),
            (0.8, Some(2000.0), "its end"),
            (1.0, Some(4000.0), "the last bound, without another above it"),
        ];
        for (q, expected, why) in cases {
            assert_eq!(interpolated(&latencies, q, &[1000.0, 2000.0, 4000.0]), expected, "{why}");
        }
        assert_eq!(interpolated(&[], 0.5, &[1000.0]), None, "no quantile without latencies");
    }
}
