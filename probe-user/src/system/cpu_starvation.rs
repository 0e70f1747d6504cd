//! Causes that keep a process from running, so that its disk appears slow to it: a limit on its CPU time,
//! busy CPUs, memory that must be read from the disk first.
//!
//! A [`Reading`] is cumulative; the difference of two is a [`Starvation`]. A value that the kernel does not
//! report is `None`, never 0.

mod proc_text;
mod reading;

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters, each since the start of the object that it belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Of the process's cgroup and its ancestors, the nearest first, without cgroups that have no CPU
    /// controller.
    throttling: Vec<Throttling>,
    quota: Option<Quota>,
    /// By thread; `None` if the kernel does not account for it.
    threads: Option<BTreeMap<u32, ThreadTimes>>,
    machine: Pressure,
    cgroup: Pressure,
    memory: MemoryEvents,
    major_faults: Option<u64>,
}

/// Difference of two readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Starvation {
    /// The one that was throttled longest among the process's cgroup and its ancestors; `None` if none can be
    /// throttled.
    pub throttling: Option<Throttling>,
    /// The lowest limit on CPU time at the later reading.
    pub quota: Option<Quota>,
    /// Time for which threads were runnable but not running: the sum of all threads, which may exceed the
    /// elapsed time.
    pub run_delay_ns: Option<u64>,
    /// Time for which threads ran, the sum of all threads.
    pub run_ns: Option<u64>,
    /// Pressure of the whole machine.
    pub machine: Pressure,
    /// Pressure of the process's cgroup.
    pub cgroup: Pressure,
    pub memory: MemoryEvents,
    /// Pages, including those of the program itself, that had to be read from a disk before the process could
    /// continue.
    pub major_faults: Option<u64>,
}

/// Throttling of a cgroup by its limit on CPU time (`cpu.stat`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Throttling {
    /// From the root of its hierarchy.
    pub cgroup: String,
    /// Enforcement periods in which the cgroup ran.
    pub periods: u64,
    /// Enforcement periods in which it used up its quota.
    pub throttled_periods: u64,
    /// Time for which it was throttled, the sum of all CPUs.
    pub throttled_ns: u64,
}

/// A limit on CPU time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quota {
    /// The cgroup with this limit; the path from the root of its hierarchy.
    pub cgroup: String,
    /// CPUs that it permits on average: 0.5 is half of one.
    pub cpus: f64,
}

/// Time in which at least one task stalled on each resource, in microseconds (the `some` line of PSI, Linux
/// 4.20 with `CONFIG_PSI` and not `psi=0`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pressure {
    pub cpu_us: Option<u64>,
    pub io_us: Option<u64>,
    pub memory_us: Option<u64>,
}

/// Number of times that a cgroup reached its memory limits (`memory.events` of version 2, descendant cgroups
/// included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryEvents {
    /// Throttled to reclaim above `memory.high`. Version 2 only.
    pub high: Option<u64>,
    /// Was about to exceed `memory.max`; in version 1 `memory.failcnt`.
    pub max: Option<u64>,
    /// Was out of memory, and reclaim did not help. Version 2 only.
    pub oom: Option<u64>,
}

/// `/proc/PID/task/TID/schedstat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ThreadTimes {
    run_ns: u64,
    run_delay_ns: u64,
}

impl Reading {
    /// Returns the difference to an earlier reading of the same process.
    ///
    /// The time of a thread that ended in between is missing, and a thread that started in between counts in
    /// full: sums may be too low, never negative. A counter that decreased belongs to another object, so its
    /// difference is `None`.
    pub fn since(&self, earlier: &Self) -> Starvation {
        let threads = self.threads.as_ref().zip(earlier.threads.as_ref());
        let times = threads.map(|(later, earlier)| between(later, earlier));
        let throttling = self.throttling.iter().filter_map(|later| {
            let earlier = earlier.throttling.iter().find(|earlier| earlier.cgroup == later.cgroup)?;
            later.since(earlier)
        });
        Starvation {
            // In order from the root, so that the nearest of equal ones is returned.
            throttling: throttling.rev().max_by_key(|throttling| throttling.throttled_ns),
            quota: self.quota.clone(),
            run_delay_ns: times.map(|times| times.run_delay_ns),
            run_ns: times.map(|times| times.run_ns),
            machine: self.machine.since(earlier.machine),
            cgroup: self.cgroup.since(earlier.cgroup),
            memory: self.memory.since(earlier.memory),
            major_faults: grown(self.major_faults, earlier.major_faults),
        }
    }
}

impl Throttling {
    fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            cgroup: self.cgroup.clone(),
            periods: self.periods.checked_sub(earlier.periods)?,
            throttled_periods: self.throttled_periods.checked_sub(earlier.throttled_periods)?,
            throttled_ns: self.throttled_ns.checked_sub(earlier.throttled_ns)?,
        })
    }
}

impl Pressure {
    fn since(self, earlier: Self) -> Self {
        Self {
            cpu_us: grown(self.cpu_us, earlier.cpu_us),
            io_us: grown(self.io_us, earlier.io_us),
            memory_us: grown(self.memory_us, earlier.memory_us),
        }
    }
}

impl MemoryEvents {
    fn since(self, earlier: Self) -> Self {
        Self {
            high: grown(self.high, earlier.high),
            max: grown(self.max, earlier.max),
            oom: grown(self.oom, earlier.oom),
        }
    }
}

fn grown(later: Option<u64>, earlier: Option<u64>) -> Option<u64> {
    later?.checked_sub(earlier?)
}

/// Sums the differences of all threads. A thread whose counters decreased is another one with the same id,
/// which started in between.
fn between(later: &BTreeMap<u32, ThreadTimes>, earlier: &BTreeMap<u32, ThreadTimes>) -> ThreadTimes {
    let mut sum = ThreadTimes::default();
    for (thread, later) in later {
        let same = earlier
            .get(thread)
            .filter(|then| then.run_ns <= later.run_ns && then.run_delay_ns <= later.run_delay_ns);
        let before = same.copied().unwrap_or_default();
        sum.run_ns += later.run_ns - before.run_ns;
        sum.run_delay_ns += later.run_delay_ns - before.run_delay_ns;
    }
    sum
}

#[cfg(test)]
mod tests;
