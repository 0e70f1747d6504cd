//! Collection of the values behind the metrics.

use std::collections::BTreeMap;

use probe_ebpf::series::{OPERATIONS, Role, WAL_ROTATION};

use super::{MemberState, Monitor, assess::totals};
use crate::{
    analysis::{
        disk_metric::PerMetric,
        latency::Exported,
        snapshot::{DiskMetricSnapshot, MemberSnapshot, MetricsSnapshot, Operation},
    },
    kernel::skipped_runs,
};

impl Monitor {
    /// Returns the values of all metrics, except whether the web configuration was reloaded, which the server
    /// adds.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let runs = self.kernel.runs();
        let skipped_runs = skipped_runs(&runs);
        let kernel = self.kernel.misses().into_iter().map(|(miss, count)| (miss.as_str(), count));
        let daemon = [
            ("program_skipped", skipped_runs),
            ("unreadable_process", self.unreadable_total),
            ("unclaimed_process", self.unclaimed),
        ];
        let sampler = self.sampler_misses();
        MetricsSnapshot {
            hook: self.kernel.hook().as_str(),
            self_test_passed: self.self_test_failure().is_none(),
            web_config_reloaded: None,
            misses: kernel.chain(daemon).chain(sampler).chain(self.omitted.by_reason()).collect(),
            runs: runs.into_iter().flatten().collect(),
            members: self.members().map(|member| self.member_snapshot(member, skipped_runs)).collect(),
        }
    }

    fn member_snapshot(&self, state: &MemberState, skipped_runs: u64) -> MemberSnapshot {
        let kernel = &self.kernel;
        let member = state.member();
        let mut errors: BTreeMap<u32, BTreeMap<&'static str, u64>> = BTreeMap::new();
        for ((series, errno), count) in state.errors(kernel) {
            *errors.entry(series).or_default().entry(errno_name(errno)).or_default() += count;
        }
        let operations = (0..).zip(OPERATIONS).map(|(series, (role, op))| Operation {
            role,
            op,
            latencies: Exported::from(&state.latencies(kernel, series)),
            time: kernel.has_sched_stats().then(|| state.time_spent(kernel, series)),
            waits: state.slow().series(series).waits,
            errors: errors.remove(&series).unwrap_or_default(),
        });
        MemberSnapshot {
            name: state.label().to_owned(),
            figures: PerMetric::from_fn(|metric| DiskMetricSnapshot {
                latencies: Exported::from(&state.latencies(kernel, state.series_of(metric))),
                crosscheck: totals(state.ledger(metric)),
            }),
            rotation: Exported::from(&state.latencies(kernel, WAL_ROTATION)),
            operations: operations.collect(),
            in_flight_s: by_role(&state.in_flight_s(kernel)),
            verdict: self.verdict_of(state, skipped_runs),
            etcd_up: state.is_up(),
            scrape_age_s: state.copy_age().map(|age| age.as_secs_f64()),
            reexported: state.reexported().cloned(),
            scrape_errors: state.scrape_errors.clone(),
            certificate_ends_s: state.certificate_ends_s(),
            data_dir: member.data_dir.display().to_string(),
            device: state.mount().device.clone(),
            filesystem: state.mount().filesystem.clone(),
            version: state.version().unwrap_or_default().to_owned(),
        }
    }
}

/// Returns the age of the oldest operation in flight of every kind of file, in seconds.
fn by_role(ages_s: &[f64; OPERATIONS.len()]) -> Vec<(&'static str, f64)> {
    let roles = [Role::Wal, Role::WalDir, Role::Backend, Role::Snapshot, Role::Defrag];
    let oldest = |role| {
        let of_role = OPERATIONS.iter().zip(ages_s).filter(|((other, _), _)| *other == role);
        of_role.fold(0.0, |oldest: f64, (_, age_s)| oldest.max(*age_s))
    };
    roles.map(|role| (role.as_str(), oldest(role))).to_vec()
}

/// Returns the name of an error of writing or syncing a file; a closed set, because it is a label value.
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
