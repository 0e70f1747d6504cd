//! The evidence from outside a member in its window: the waits of slow operations, the requests of the device
//! and their owners, and CPU starvation of the process.

use std::collections::BTreeMap;

use probe_ebpf::io::{Class, LayerTotals, Owner};

use super::{MemberState, Monitor, environment::DevicePlacement, wait_totals::WaitTotals};
use crate::{
    analysis::{
        causes::{Cause, PerCause},
        disk_metric::DiskMetric,
        latency::seconds,
        slow_operation::{WaitTimes, comm},
        verdict::{ClassTime, CpuEvidence, DeviceEvidence, Neighbour, SlowTime, TimeSplit},
    },
    system::{cgroups, devices},
};

/// Returns how slow operations spent their time.
pub fn slow(totals: &WaitTotals, exact_causes: bool) -> SlowTime {
    let WaitTotals { time, slow } = totals;
    let parts_ns = time.slow.on_cpu_ns + time.slow.run_queue_ns;
    let blocked_s = seconds(time.slow.sum_ns.saturating_sub(parts_ns));
    // Operations without a record count as unsampled: the ring was full, or there were more in a second than
    // the kernel side emits.
    let all_of = |waits: &WaitTimes| {
        // An operation that ended when the window began may be in only one of both; the parts must not exceed
        // the whole.
        let recorded_s = seconds(waits.iter().sum());
        let scale = if recorded_s > blocked_s { blocked_s / recorded_s } else { 1.0 };
        let mut waits_s = PerCause::from_fn(|cause| seconds(waits[cause]) * scale);
        waits_s[Cause::Unsampled] += (blocked_s - waits_s.iter().sum::<f64>()).max(0.0);
        waits_s
    };
    SlowTime {
        operations: time.slow.events,
        total_s: seconds(time.slow.sum_ns),
        on_cpu_s: seconds(time.slow.on_cpu_ns),
        run_queue_s: seconds(time.slow.run_queue_ns),
        waits_s: all_of(&slow.waits),
        sampled_s: exact_causes.then(|| all_of(&slow.sampled)),
        device_idle_s: seconds(slow.device_idle_ns),
        device_busy_s: seconds(slow.device_busy_ns),
    }
}

/// Returns how all operations spent their time.
pub fn split(totals: &WaitTotals, has_sched_stats: bool) -> TimeSplit {
    let part = |ns| has_sched_stats.then(|| seconds(ns));
    TimeSplit {
        total_s: seconds(totals.time.sum_ns),
        on_cpu_s: part(totals.time.on_cpu_ns),
        run_queue_s: part(totals.time.run_queue_ns),
    }
}

/// Returns the evidence of the device under a disk metric's files, and its other users, the largest share
/// first.
pub fn device(
    monitor: &Monitor,
    state: &MemberState,
    metric: DiskMetric,
) -> Option<(DeviceEvidence, Vec<Neighbour>)> {
    let placement = state.environment().devices[metric].as_ref()?;
    let top = *placement.layers.first()?;
    let totals = layer_since(state, top)?;
    let loads = loads(monitor, state, placement);
    let classes = Class::ALL.map(|class| class_time(&totals, &loads, class as usize));
    let stack = &placement.stack;
    let disk = stack.disks.first();
    let alias = |layer: &devices::Layer| match &layer.alias {
        Some(alias) => format!("{} ({} {alias})", layer.name, layer.kind.as_str()),
        None => format!("{} ({})", layer.name, layer.kind.as_str()),
    };
    let evidence = DeviceEvidence {
        name: stack.top().name.clone(),
        layers: stack.layers.iter().map(alias).collect(),
        model: disk.and_then(|disk| disk.model.clone()),
        cloud: disk.and_then(|disk| disk.cloud),
        scheduler: disk.and_then(|disk| disk.scheduler.clone()),
        write_cache: disk.and_then(|disk| disk.write_cache.clone()),
        classes,
    };
    Some((evidence, neighbours(&loads)))
}

/// Returns the totals of a layer in the window; none if it has not been read yet.
fn layer_since(state: &MemberState, layer: u32) -> Option<LayerTotals> {
    let (first, last) = state.window.ends()?;
    let of = |layers: &[(u32, LayerTotals)]| {
        layers.iter().find(|(other, _)| *other == layer).map(|(_, totals)| *totals)
    };
    let (before, now) = (of(&first.totals.layers)?, of(&last.totals.layers)?);
    let mut since = now;
    for (to, from) in since.classes.iter_mut().zip(before.classes) {
        to.requests = to.requests.saturating_sub(from.requests);
        to.bytes = to.bytes.saturating_sub(from.bytes);
        to.total_ns = to.total_ns.saturating_sub(from.total_ns);
        to.queue_ns = to.queue_ns.saturating_sub(from.queue_ns);
        to.device_ns = to.device_ns.saturating_sub(from.device_ns);
    }
    Some(since)
}

/// The originator of requests to a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LoadOwner {
    /// The member itself.
    Own,
    /// Kernel threads, not on behalf of a process: the journal, writeback.
    Kernel,
    /// Another workload, by cgroup and, in the root cgroup, by process.
    Other { cgroup: Option<String>, tgid: u32 },
}

/// The requests of one owner in the window.
#[derive(Clone, Debug, Default)]
struct IoLoad {
    requests: [u64; 4],
    bytes: u64,
    syncs: u64,
    /// Requests and syncs of the most active process, and its name.
    process: (u64, String),
}

fn loads(monitor: &Monitor, state: &MemberState, placement: &DevicePlacement) -> BTreeMap<LoadOwner, IoLoad> {
    let Some((first, last)) = state.window.ends() else { return BTreeMap::new() };
    // Also of a member that has ended: its requests in the window are not another workload's.
    let own_pid = state.member().id.pid;
    let own_cgroup = state.environment().membership.as_ref().and_then(|own| own.path()).unwrap_or("/");
    // Requests through device mapper and similar drivers appear on every layer, so the maximum of each owner
    // counts.
    let mut by_owner: BTreeMap<(u64, u32), (IoLoad, [u64; 2])> = BTreeMap::new();
    for now in last.totals.owners.iter().filter(|owner| placement.layers.contains(&owner.key.layer)) {
        let before = first.totals.owners.iter().find(|owner| owner.key == now.key);
        let load = since(now, before);
        let (maximum, _) =
            by_owner.entry((now.key.cgroup, now.key.tgid)).or_insert_with(|| (IoLoad::default(), now.comm));
        for (to, from) in maximum.requests.iter_mut().zip(load.requests) {
            *to = (*to).max(from);
        }
        maximum.bytes = maximum.bytes.max(load.bytes);
        maximum.syncs = maximum.syncs.max(load.syncs);
    }
    let mut loads: BTreeMap<LoadOwner, IoLoad> = BTreeMap::new();
    for ((cgroup, tgid), (load, comm_words)) in by_owner {
        if load.requests.iter().sum::<u64>() + load.syncs == 0 || tgid == std::process::id() {
            continue;
        }
        let cgroup = monitor.cgroup(cgroup).filter(|path| path != "/");
        let owner = if tgid == own_pid {
            LoadOwner::Own
        } else {
            match (tgid, cgroup) {
                (0, None) => LoadOwner::Kernel,
                (0, Some(path)) if path == own_cgroup => LoadOwner::Own,
                (tgid, None) => LoadOwner::Other { cgroup: None, tgid },
                (_, Some(path)) => LoadOwner::Other { cgroup: Some(path), tgid: 0 },
            }
        };
        let weight = load.requests.iter().sum::<u64>() + load.syncs;
        let sum = loads.entry(owner).or_default();
        for (to, from) in sum.requests.iter_mut().zip(load.requests) {
            *to += from;
        }
        sum.bytes += load.bytes;
        sum.syncs += load.syncs;
        if weight >= sum.process.0 {
            let pid = if tgid == 0 { String::new() } else { format!("[{tgid}]") };
            sum.process = (weight, format!("{}{pid}", comm(tgid, comm_words)));
        }
    }
    loads
}

fn since(now: &Owner, before: Option<&Owner>) -> IoLoad {
    let then = before.copied().unwrap_or_default();
    IoLoad {
        requests: std::array::from_fn(|class| now.requests[class].saturating_sub(then.requests[class])),
        bytes: now.bytes.saturating_sub(then.bytes),
        syncs: now.syncs.saturating_sub(then.syncs),
        process: (0, String::new()),
    }
}

fn class_time(totals: &LayerTotals, loads: &BTreeMap<LoadOwner, IoLoad>, class: usize) -> ClassTime {
    let time = totals.classes[class];
    let mut found = ClassTime {
        requests: time.requests,
        total_s: seconds(time.total_ns),
        queue_s: seconds(time.queue_ns),
        device_s: seconds(time.device_ns),
        ..ClassTime::default()
    };
    for (owner, load) in loads {
        match owner {
            LoadOwner::Own => found.own_requests += load.requests[class],
            LoadOwner::Kernel => found.kernel_requests += load.requests[class],
            LoadOwner::Other { .. } => found.other_requests += load.requests[class],
        }
    }
    found
}

fn neighbours(loads: &BTreeMap<LoadOwner, IoLoad>) -> Vec<Neighbour> {
    let flush = Class::Flush as usize;
    let counted = |load: &IoLoad| [load.requests.iter().sum::<u64>(), load.requests[flush], load.bytes];
    let mut whole = [0; 3];
    for (_, load) in loads.iter().filter(|(owner, _)| **owner != LoadOwner::Kernel) {
        for (to, from) in whole.iter_mut().zip(counted(load)) {
            *to += from;
        }
    }
    let share = |load: &IoLoad| {
        let parts = counted(load).into_iter().zip(whole).filter(|(_, whole)| *whole > 0);
        parts.map(|(part, whole)| part as f64 / whole as f64).fold(0.0, f64::max)
    };
    let others = loads.iter().filter_map(|(owner, load)| match owner {
        LoadOwner::Other { cgroup, .. } => Some((cgroup.clone(), load)),
        LoadOwner::Own | LoadOwner::Kernel => None,
    });
    let mut neighbours: Vec<Neighbour> = others
        .map(|(cgroup, load)| Neighbour {
            owner: match &cgroup {
                Some(path) => cgroups::owner(path).to_string(),
                None => load.process.1.clone(),
            },
            cgroup,
            process: load.process.1.clone(),
            requests: load.requests.iter().sum(),
            flushes: load.requests[flush],
            syncs: load.syncs,
            discards: load.requests[Class::Discard as usize],
            bytes: load.bytes,
            share: share(load),
        })
        .collect();
    neighbours.sort_by(|a, b| b.share.total_cmp(&a.share).then(b.requests.cmp(&a.requests)));
    neighbours
}

/// Returns how long the process was kept from running, and why.
pub fn cpu(state: &MemberState) -> CpuEvidence {
    let ends = state.window.ends();
    let readings = ends.and_then(|(first, last)| {
        Some((first.totals.starvation.as_ref()?, last.totals.starvation.as_ref()?))
    });
    let Some((before, now)) = readings else { return CpuEvidence::default() };
    let starvation = now.since(before);
    let window_s = state.window.seconds();
    let share = |own: Option<u64>, machine: Option<u64>| {
        let us = own.or(machine)?;
        (window_s > 0.0).then(|| (us as f64 / 1e6 / window_s).min(1.0))
    };
    let (own, machine) = (&starvation.cgroup, &starvation.machine);
    CpuEvidence {
        throttled_s: starvation.throttling.as_ref().map(|throttling| seconds(throttling.throttled_ns)),
        throttled_periods: starvation.throttling.as_ref().map(|throttling| throttling.throttled_periods),
        quota_cpus: starvation.quota.as_ref().map(|quota| quota.cpus),
        run_delay_s: starvation.run_delay_ns.map(seconds),
        run_s: starvation.run_ns.map(seconds),
        psi_cpu_share: share(own.cpu_us, machine.cpu_us),
        psi_io_share: share(own.io_us, machine.io_us),
        psi_memory_share: share(own.memory_us, machine.memory_us),
        major_faults: starvation.major_faults,
    }
}

/// Returns the limits on the member's block I/O on the devices under a disk metric's files, one phrase per
/// limit.
pub fn io_limits(monitor: &Monitor, state: &MemberState, metric: DiskMetric) -> Vec<String> {
    let environment = state.environment();
    let (Some(placement), Some(membership)) = (&environment.devices[metric], &environment.membership) else {
        return Vec::new();
    };
    let limits = monitor.host().io_limits(membership, &placement.stack);
    limits
        .iter()
        .map(|limit| {
            format!(
                "cgroup {} is limited to {} {} on {}",
                limit.cgroup,
                limit.value,
                limit.kind.in_words(),
                limit.device
            )
        })
        .collect()
}
