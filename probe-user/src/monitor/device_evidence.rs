//! What was measured around a member in its window, as a verdict takes it: where slow operations lost their time, what the
//! device did and for whom, what kept the process from running.

use std::collections::BTreeMap;

use probe_ebpf::io::{Class, LayerTotals, Owner};

use super::{MemberState, Monitor, environment::DevicePlacement, wait_totals::Lost};
use crate::{
    analysis::{
        causes::{Cause, PerCause},
        disk_metric::DiskMetric,
        latency::seconds,
        slow_operation::{Waits, comm},
        verdict::{ClassTime, CpuEvidence, DeviceEvidence, Neighbour, SlowTime, Split},
    },
    system::{cgroups, devices},
};

/// Returns where the time of slow operations went.
pub fn slow(lost: &Lost, exact_causes: bool) -> SlowTime {
    let Lost { time, slow } = lost;
    let parts_ns = time.slow.on_cpu_ns + time.slow.run_queue_ns;
    let blocked_s = seconds(time.slow.sum_ns.saturating_sub(parts_ns));
    // Those of which no record came: the ring was full, or there were more in a second than are told of.
    let all_of = |waits: &Waits| {
        // An operation that ended as the window began may be in the one and not in the other; the parts are no more than the whole.
        let told_s = seconds(waits.iter().sum());
        let scale = if told_s > blocked_s { blocked_s / told_s } else { 1.0 };
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
pub fn split(lost: &Lost, keeps_accounts: bool) -> Split {
    let part = |ns| keeps_accounts.then(|| seconds(ns));
    Split {
        total_s: seconds(lost.time.sum_ns),
        on_cpu_s: part(lost.time.on_cpu_ns),
        run_queue_s: part(lost.time.run_queue_ns),
    }
}

/// Returns what the device under a figure's files did, and who else used it, the heaviest first.
pub fn device(
    monitor: &Monitor,
    tracked: &MemberState,
    metric: DiskMetric,
) -> Option<(DeviceEvidence, Vec<Neighbour>)> {
    let placed = tracked.environment().devices[metric].as_ref()?;
    let top = *placed.layers.first()?;
    let totals = layer_since(tracked, top)?;
    let loads = loads(monitor, tracked, placed);
    let classes = Class::ALL.map(|class| class_time(&totals, &loads, class as usize));
    let stack = &placed.stack;
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

/// Returns what a layer did in the window; none if nothing was read of it yet.
fn layer_since(tracked: &MemberState, layer: u32) -> Option<LayerTotals> {
    let (first, last) = tracked.window.ends()?;
    let of = |layers: &[(u32, LayerTotals)]| {
        layers.iter().find(|(other, _)| *other == layer).map(|(_, totals)| *totals)
    };
    let (before, now) = (of(&first.losses.layers)?, of(&last.losses.layers)?);
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

/// For whom a device worked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// The member's own.
    Own,
    /// The kernel's threads, for nobody in particular: the journal, writeback.
    Kernel,
    /// Somebody else's, by cgroup and, in the root of all cgroups, by process.
    Other { cgroup: Option<String>, tgid: u32 },
}

/// What the device was asked for by one of them in the window.
#[derive(Clone, Debug, Default)]
struct Load {
    requests: [u64; 4],
    bytes: u64,
    syncs: u64,
    /// Name of who did most, and how much that was.
    process: (u64, String),
}

fn loads(monitor: &Monitor, tracked: &MemberState, placed: &DevicePlacement) -> BTreeMap<Whose, Load> {
    let Some((first, last)) = tracked.window.ends() else { return BTreeMap::new() };
    // Of one that has ended, too: what it did in the window is not somebody else's.
    let own_pid = tracked.member().id.pid;
    let own_cgroup = tracked.environment().membership.as_ref().and_then(|own| own.path()).unwrap_or("/");
    // What goes through dm and its like is asked for on every layer, so of each owner the most counts.
    let mut by_owner: BTreeMap<(u64, u32), (Load, [u64; 2])> = BTreeMap::new();
    for now in last.losses.owners.iter().filter(|owner| placed.layers.contains(&owner.key.layer)) {
        let before = first.losses.owners.iter().find(|owner| owner.key == now.key);
        let load = since(now, before);
        let (most, _) =
            by_owner.entry((now.key.cgroup, now.key.tgid)).or_insert_with(|| (Load::default(), now.comm));
        for (to, from) in most.requests.iter_mut().zip(load.requests) {
            *to = (*to).max(from);
        }
        most.bytes = most.bytes.max(load.bytes);
        most.syncs = most.syncs.max(load.syncs);
    }
    let mut loads: BTreeMap<Whose, Load> = BTreeMap::new();
    for ((cgroup, tgid), (load, words)) in by_owner {
        if load.requests.iter().sum::<u64>() + load.syncs == 0 || tgid == std::process::id() {
            continue;
        }
        let cgroup = monitor.cgroup(cgroup).filter(|path| path != "/");
        let whose = if tgid == own_pid {
            Whose::Own
        } else {
            match (tgid, cgroup) {
                (0, None) => Whose::Kernel,
                (0, Some(path)) if path == own_cgroup => Whose::Own,
                (tgid, None) => Whose::Other { cgroup: None, tgid },
                (_, Some(path)) => Whose::Other { cgroup: Some(path), tgid: 0 },
            }
        };
        let weight = load.requests.iter().sum::<u64>() + load.syncs;
        let sum = loads.entry(whose).or_default();
        for (to, from) in sum.requests.iter_mut().zip(load.requests) {
            *to += from;
        }
        sum.bytes += load.bytes;
        sum.syncs += load.syncs;
        if weight >= sum.process.0 {
            let pid = if tgid == 0 { String::new() } else { format!("[{tgid}]") };
            sum.process = (weight, format!("{}{pid}", comm(tgid, words)));
        }
    }
    loads
}

fn since(now: &Owner, before: Option<&Owner>) -> Load {
    let then = before.copied().unwrap_or_default();
    Load {
        requests: std::array::from_fn(|class| now.requests[class].saturating_sub(then.requests[class])),
        bytes: now.bytes.saturating_sub(then.bytes),
        syncs: now.syncs.saturating_sub(then.syncs),
        process: (0, String::new()),
    }
}

fn class_time(totals: &LayerTotals, loads: &BTreeMap<Whose, Load>, class: usize) -> ClassTime {
    let time = totals.classes[class];
    let mut found = ClassTime {
        requests: time.requests,
        total_s: seconds(time.total_ns),
        queue_s: seconds(time.queue_ns),
        device_s: seconds(time.device_ns),
        ..ClassTime::default()
    };
    for (whose, load) in loads {
        match whose {
            Whose::Own => found.own_requests += load.requests[class],
            Whose::Kernel => found.kernel_requests += load.requests[class],
            Whose::Other { .. } => found.other_requests += load.requests[class],
        }
    }
    found
}

fn neighbours(loads: &BTreeMap<Whose, Load>) -> Vec<Neighbour> {
    let flush = Class::Flush as usize;
    let counted = |load: &Load| [load.requests.iter().sum::<u64>(), load.requests[flush], load.bytes];
    let mut whole = [0; 3];
    for (_, load) in loads.iter().filter(|(whose, _)| **whose != Whose::Kernel) {
        for (to, from) in whole.iter_mut().zip(counted(load)) {
            *to += from;
        }
    }
    let share = |load: &Load| {
        let parts = counted(load).into_iter().zip(whole).filter(|(_, whole)| *whole > 0);
        parts.map(|(part, whole)| part as f64 / whole as f64).fold(0.0, f64::max)
    };
    let others = loads.iter().filter_map(|(whose, load)| match whose {
        Whose::Other { cgroup, .. } => Some((cgroup.clone(), load)),
        Whose::Own | Whose::Kernel => None,
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

/// Returns what kept the process from running.
pub fn cpu(tracked: &MemberState) -> CpuEvidence {
    let ends = tracked.window.ends();
    let readings = ends.and_then(|(first, last)| {
        Some((first.losses.starvation.as_ref()?, last.losses.starvation.as_ref()?))
    });
    let Some((before, now)) = readings else { return CpuEvidence::default() };
    let starvation = now.since(before);
    let window_s = tracked.window.seconds();
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

/// Returns the limits on block I/O that bind the member on the devices under a figure's files, a sentence each.
pub fn io_limits(monitor: &Monitor, tracked: &MemberState, metric: DiskMetric) -> Vec<String> {
    let environment = tracked.environment();
    let (Some(placed), Some(membership)) = (&environment.devices[metric], &environment.membership) else {
        return Vec::new();
    };
    let limits = monitor.host().io_limits(membership, &placed.stack);
    limits
        .iter()
        .map(|limit| {
            format!(
                "cgroup {} may have {} {} on {}",
                limit.cgroup,
                limit.value,
                limit.kind.in_words(),
                limit.device
            )
        })
        .collect()
}
