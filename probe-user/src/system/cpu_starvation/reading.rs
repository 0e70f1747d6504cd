//! Reads the counters of a process: about twenty files, and one per thread.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
};

use procfs::{
    FromRead,
    process::{Schedstat, Stat},
};

use super::{MemoryEvents, Pressure, Quota, Reading, ThreadTimes, Throttling, proc_text};
use crate::system::cgroups::{Cgroup, CgroupVersion, Membership, Roots};

impl Reading {
    /// Reads the counters of a process. `proc` is `/proc`; a counter that does not exist or cannot be read is
    /// `None`.
    pub fn read(pid: u32, proc: &Path, membership: &Membership, roots: &Roots) -> Self {
        let process = proc.join(pid.to_string());
        let (version, cpu) = limited(membership, roots, "cpu");
        let (memory_version, memory) = limited(membership, roots, "memory");
        let memory = memory.first().map(|own| memory_events(own, memory_version));
        let unified = membership.unified_lineage(roots).unwrap_or_default();
        let own = unified.first().filter(|own| !own.is_root());
        Self {
            throttling: cpu.iter().filter_map(|cgroup| throttling(cgroup, version)).collect(),
            quota: tightest(cpu.iter().filter_map(|cgroup| quota(cgroup, version))),
            threads: threads(&process.join("task")),
            machine: pressure(|of| fs::read_to_string(proc.join("pressure").join(of)).ok()),
            cgroup: own
                .map_or_else(Pressure::default, |own| pressure(|of| text(own, &format!("{of}.pressure")))),
            memory: memory.unwrap_or_default(),
            major_faults: major_faults(&process.join("stat")),
        }
    }
}

/// Returns the cgroups that can have limits: all except the root.
fn limited(membership: &Membership, roots: &Roots, controller: &str) -> (CgroupVersion, Vec<Cgroup>) {
    let (version, mut lineage) =
        membership.lineage(roots, controller).unwrap_or((CgroupVersion::V2, Vec::new()));
    lineage.retain(|cgroup| !cgroup.is_root());
    (version, lineage)
}

fn throttling(cgroup: &Cgroup, version: CgroupVersion) -> Option<Throttling> {
    proc_text::throttling(&text(cgroup, "cpu.stat")?, version, &cgroup.path)
}

fn quota(cgroup: &Cgroup, version: CgroupVersion) -> Option<Quota> {
    let cpus = match version {
        CgroupVersion::V1 => {
            proc_text::cpus(&text(cgroup, "cpu.cfs_quota_us")?, &text(cgroup, "cpu.cfs_period_us")?)
        }
        CgroupVersion::V2 => proc_text::cpu_max(&text(cgroup, "cpu.max")?),
    };
    cpus.map(|cpus| Quota { cgroup: cgroup.path.clone(), cpus })
}

fn tightest(quotas: impl Iterator<Item = Quota>) -> Option<Quota> {
    quotas.min_by(|a, b| a.cpus.total_cmp(&b.cpus))
}

fn memory_events(cgroup: &Cgroup, version: CgroupVersion) -> MemoryEvents {
    match version {
        CgroupVersion::V1 => {
            let failed = text(cgroup, "memory.failcnt").and_then(|text| text.trim().parse().ok());
            MemoryEvents { max: failed, ..MemoryEvents::default() }
        }
        CgroupVersion::V2 => {
            text(cgroup, "memory.events").map(|text| proc_text::memory_events(&text)).unwrap_or_default()
        }
    }
}

/// Reads the pressure files. With `psi=0`, or 0 in `cgroup.pressure`, the files may exist, but reading them
/// fails with `EOPNOTSUPP` (`psi_show` of kernel/sched/psi.c).
fn pressure(text: impl Fn(&str) -> Option<String>) -> Pressure {
    let total = |of: &str| text(of).and_then(|text| proc_text::pressure(&text));
    Pressure { cpu_us: total("cpu"), io_us: total("io"), memory_us: total("memory") }
}

/// Reads the times of all threads, without threads that end during the read. A kernel with this accounting
/// off reports zero everywhere (`proc_pid_schedstat` of fs/proc/base.c).
fn threads(tasks: &Path) -> Option<BTreeMap<u32, ThreadTimes>> {
    let times = |entry: &fs::DirEntry| {
        let thread = entry.file_name().to_str()?.parse().ok()?;
        let times = Schedstat::from_read(File::open(entry.path().join("schedstat")).ok()?).ok()?;
        Some((thread, ThreadTimes { run_ns: times.sum_exec_runtime, run_delay_ns: times.run_delay }))
    };
    let entries = fs::read_dir(tasks).ok()?.flatten();
    let threads: BTreeMap<u32, ThreadTimes> = entries.filter_map(|entry| times(&entry)).collect();
    threads.values().any(|times| *times != ThreadTimes::default()).then_some(threads)
}

fn major_faults(stat: &Path) -> Option<u64> {
    Stat::from_read(File::open(stat).ok()?).ok().map(|stat| stat.majflt)
}

fn text(cgroup: &Cgroup, file: &str) -> Option<String> {
    fs::read_to_string(cgroup.directory.join(file)).ok()
}
