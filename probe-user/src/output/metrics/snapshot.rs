//! What the metrics are made of, taken from the monitor at the moment of a scrape.

use std::{collections::BTreeMap, sync::Arc};

use probe_ebpf::series::{OPERATIONS, Op, Role, WAL_ROTATION};

use crate::{
    analysis::{
        crosscheck::Invariant,
        latency::{Exported, TimeSpent},
        slow_operation::Waits,
        verdict::Verdict,
    },
    command::config::Options,
    etcd::PassedOn,
    kernel::{Runs, skipped},
    monitor::{LastScrape, Metric, Monitor, Tracked},
    output::report,
};

/// All members and the probe itself.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub hook: &'static str,
    pub self_test_passed: bool,
    /// None without a web configuration. The server knows, so it is the one to say.
    pub web_config_reloaded: Option<bool>,
    /// By reason.
    pub misses: Vec<(&'static str, u64)>,
    pub runs: Vec<Runs>,
    pub members: Vec<MemberSnapshot>,
}

/// One member, over all its lives.
#[derive(Clone, Debug)]
pub struct MemberSnapshot {
    pub name: String,
    /// By [`Metric`].
    pub figures: [Figure; 2],
    pub rotation: Exported,
    pub operations: Vec<Operation>,
    /// By role.
    pub in_flight_s: Vec<(&'static str, f64)>,
    pub verdict: Verdict,
    pub etcd_up: bool,
    /// Age of the last copy of etcd's own metrics; none if there is none.
    pub scrape_age_s: Option<f64>,
    /// What is passed on of them; none if that is not fresh.
    pub passed_on: Option<Arc<PassedOn>>,
    pub scrape_errors: BTreeMap<&'static str, u64>,
    /// When each certificate ends, in seconds since 1970, by [`crate::monitor::certificate_watch::Kind`].
    pub certificate_ends_s: [Option<i64>; 3],
    pub data_dir: String,
    pub device: String,
    pub filesystem: String,
    pub version: String,
}

/// One of etcd's figures, measured in the kernel and reconciled.
#[derive(Clone, Debug)]
pub struct Figure {
    pub latencies: Exported,
    pub kernel_events: u64,
    pub etcd_events: u64,
    pub difference: i64,
    pub uncertainty: Option<u64>,
    pub unverified: u64,
    /// By [`Invariant`].
    pub violations: [u64; 2],
    pub overhead_s: f64,
}

/// One system call on one kind of file.
#[derive(Clone, Debug)]
pub struct Operation {
    pub role: Role,
    pub op: Op,
    pub latencies: Exported,
    /// None where the kernel keeps no account of it.
    pub time: Option<TimeSpent>,
    /// What slow ones waited for.
    pub waits: Waits,
    /// By the name of the error.
    pub errors: BTreeMap<&'static str, u64>,
}

impl Snapshot {
    pub fn of(monitor: &Monitor, options: &Options) -> Self {
        let runs = monitor.kernel().runs();
        let skipped_runs = skipped(&runs);
        let kernel = monitor.kernel().misses().into_iter().map(|(miss, count)| (miss.as_str(), count));
        let daemon = [
            ("program_skipped", skipped_runs),
            ("unreadable_process", monitor.unreadable_total()),
            ("unclaimed_process", monitor.unclaimed()),
        ];
        let sampler = monitor.sampler_misses();
        Self {
            hook: monitor.kernel().hook().as_str(),
            self_test_passed: monitor.blindness().is_none(),
            web_config_reloaded: None,
            misses: kernel.chain(daemon).chain(sampler).chain(monitor.left_out().by_reason()).collect(),
            runs: runs.into_iter().flatten().collect(),
            members: monitor
                .members()
                .map(|tracked| MemberSnapshot::of(monitor, tracked, options, skipped_runs))
                .collect(),
        }
    }
}

impl MemberSnapshot {
    fn of(monitor: &Monitor, tracked: &Tracked, options: &Options, skipped_runs: u64) -> Self {
        let kernel = monitor.kernel();
        let member = tracked.member();
        let mut errors: BTreeMap<u32, BTreeMap<&'static str, u64>> = BTreeMap::new();
        for ((series, errno), count) in tracked.errors(kernel) {
            *errors.entry(series).or_default().entry(errno_name(errno)).or_default() += count;
        }
        let operations = (0..).zip(OPERATIONS).map(|(series, (role, op))| Operation {
            role,
            op,
            latencies: Exported::from(&tracked.latencies(kernel, series)),
            time: kernel.keeps_accounts().then(|| tracked.time_spent(kernel, series)),
            waits: tracked.slow().series(series).waits,
            errors: errors.remove(&series).unwrap_or_default(),
        });
        let version = match &tracked.last_scrape {
            LastScrape::Done(scrape) => scrape.version.clone(),
            _ => None,
        };
        Self {
            name: tracked.label().to_owned(),
            figures: Metric::ALL.map(|metric| Figure::of(monitor, tracked, metric)),
            rotation: Exported::from(&tracked.latencies(kernel, WAL_ROTATION)),
            operations: operations.collect(),
            in_flight_s: by_role(&tracked.in_flight_s(kernel)),
            verdict: report::judgement(monitor, tracked, options, skipped_runs).verdict,
            etcd_up: tracked.is_up(),
            scrape_age_s: tracked.copy_age().map(|age| age.as_secs_f64()),
            passed_on: tracked.passed_on().cloned(),
            scrape_errors: tracked.scrape_errors.clone(),
            certificate_ends_s: tracked.certificate_ends_s(),
            data_dir: member.data_dir.display().to_string(),
            device: tracked.mount().device.clone(),
            filesystem: tracked.mount().filesystem.clone(),
            version: version.unwrap_or_default(),
        }
    }
}

impl Figure {
    fn of(monitor: &Monitor, tracked: &Tracked, metric: Metric) -> Self {
        let ledger = tracked.ledger(metric);
        Self {
            latencies: Exported::from(&tracked.latencies(monitor.kernel(), tracked.series_of(metric))),
            kernel_events: ledger.kernel_events(),
            etcd_events: ledger.etcd_events(),
            difference: ledger.difference(),
            uncertainty: ledger.uncertainty(),
            unverified: ledger.unverified(),
            violations: Invariant::ALL.map(|invariant| ledger.violations(invariant)),
            overhead_s: ledger.overhead_s(),
        }
    }
}

/// Returns the oldest operation in flight of every kind of file.
fn by_role(ages_s: &[f64; OPERATIONS.len()]) -> Vec<(&'static str, f64)> {
    let roles = [Role::Wal, Role::WalDir, Role::Backend, Role::Snapshot, Role::Defrag];
    let oldest = |role| {
        let of_role = OPERATIONS.iter().zip(ages_s).filter(|((other, _), _)| *other == role);
        of_role.fold(0.0, |oldest: f64, (_, age_s)| oldest.max(*age_s))
    };
    roles.map(|role| (role.as_str(), oldest(role))).to_vec()
}

/// Returns the name of an error that writing or syncing a file may end in; a closed set, for it is a label.
fn errno_name(errno: u32) -> &'static str {
    // include/uapi/asm-generic/errno-base.h and errno.h
    match errno {
        4 => "EINTR",
        5 => "EIO",
        9 => "EBADF",
        12 => "ENOMEM",
        22 => "EINVAL",
        27 => "EFBIG",
        28 => "ENOSPC",
        30 => "EROFS",
        95 => "EOPNOTSUPP",
        122 => "EDQUOT",
        _ => "other",
    }
}
