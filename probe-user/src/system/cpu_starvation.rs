//! What keeps a process from running, which makes its disk look slow from within: a limit on its CPU time, a full CPU, memory
//! that has to come from the disk first.
//!
//! A [`Reading`] is cumulative; two of them make a [`Starvation`], what happened in between. What the kernel does not tell is
//! `None`, never 0.

mod proc_text;
mod reading;

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters since each of what they count exists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Of the process's control group and its ancestors, the nearest first; those without a CPU controller are not here.
    throttling: Vec<Throttling>,
    quota: Option<Quota>,
    /// By thread; `None` if the kernel does not account for it.
    threads: Option<BTreeMap<u32, ThreadTimes>>,
    machine: Pressure,
    cgroup: Pressure,
    memory: MemoryEvents,
    major_faults: Option<u64>,
}

/// What happened between two readings.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Starvation {
    /// The control group, of the process's own and its ancestors, that was throttled longest; `None` if none can be.
    pub throttling: Option<Throttling>,
    /// The tightest limit on CPU time when it was read last.
    pub quota: Option<Quota>,
    /// How long threads were ready to run and did not, all threads together: a sum, which may exceed the time that passed.
    pub run_delay_ns: Option<u64>,
    /// How long threads ran, all threads together.
    pub run_ns: Option<u64>,
    /// Of the whole machine.
    pub machine: Pressure,
    /// Of the process's control group.
    pub cgroup: Pressure,
    pub memory: MemoryEvents,
    /// Pages that had to be read from a disk before the process could go on, its program among them.
    pub major_faults: Option<u64>,
}

/// What the limit on CPU time did to a control group (`cpu.stat`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Throttling {
    /// From the root of its hierarchy.
    pub cgroup: String,
    /// Enforcement periods in which the group ran.
    pub periods: u64,
    /// Those in which it used up its quota.
    pub throttled_periods: u64,
    /// How long it was stopped, all CPUs together.
    pub throttled_ns: u64,
}

/// A limit on CPU time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quota {
    /// Whose it is; from the root of its hierarchy.
    pub cgroup: String,
    /// How many CPUs it allows on average: 0.5 is half of one.
    pub cpus: f64,
}

/// How long at least one task stalled for want of each (the `some` line of PSI, Linux 4.20 with `CONFIG_PSI` and not
/// `psi=0`), in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pressure {
    pub cpu_us: Option<u64>,
    pub io_us: Option<u64>,
    pub memory_us: Option<u64>,
}

/// How often a control group met its limits on memory (`memory.events` of version 2, groups below included).
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
    /// Returns what happened since an earlier reading of the same process.
    ///
    /// A thread that ended in between takes with it what it did since, and one that began counts in full: sums may be too low,
    /// never negative. A counter that fell is another one, and tells nothing.
    pub fn since(&self, earlier: &Self) -> Starvation {
        let threads = self.threads.as_ref().zip(earlier.threads.as_ref());
        let times = threads.map(|(later, earlier)| between(later, earlier));
        let throttling = self.throttling.iter().filter_map(|later| {
            let earlier = earlier.throttling.iter().find(|earlier| earlier.cgroup == later.cgroup)?;
            later.since(earlier)
        });
        Starvation {
            // From the root, so that of equals the nearest is taken.
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

/// A thread whose counters fell is another one under the same number, and began in between.
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
