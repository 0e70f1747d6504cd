//! The kernel half of the daemon: all code that calls aya.
//!
//! [`Kernel::attach`] loads and attaches the programs; from then on counts are read from memory shared with
//! the kernel.

mod attach;
mod attach_toggle;
mod block_io;
mod btf;
mod exact_causes;
mod hook_kind;
mod in_flight;
mod kernel_error;
mod kernel_histograms;
mod load_object;
mod load_programs;
mod map_access;
mod mmap_array;
mod preemption;
mod program_stats;
mod reclaim;
pub mod sampler;
mod self_test;
mod slow_ring;
mod start;
mod struct_offsets;
mod tracefs;

use std::sync::Arc;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, RingBuf, Stack},
};
use aya_log::EbpfLogger;
use probe_ebpf::{
    miss::Miss,
    state::{ErrorKey, ProcessKey, Record, THREADS, Target, Thread, ThreadKey},
};
use rustix::time::{ClockId, clock_gettime};

pub use attach_toggle::Toggle;
pub use block_io::BlockIo;
pub use hook_kind::Hook;
pub use in_flight::InFlight;
pub use kernel_error::KernelError;
use kernel_histograms::Histograms;
pub use load_object::{CountingFault, KernelConfig};
use map_access::{in_map, take, take_array, take_hash};
use mmap_array::MmapArray;
use program_stats::ProgramStats;
pub use program_stats::skipped_runs;
pub use reclaim::NS_PER_TICK;
pub use self_test::SelfTestError;
use self_test::Workload;
pub use slow_ring::{SamplerMaps, SlowRing};
pub use start::{HookChoice, StartError, start};
use struct_offsets::KernelLayout;

use crate::{
    analysis::latency::{Latencies, TimeSpent},
    analysis::snapshot::ProgramRuns,
    support::logging::chain,
    system::host,
};

/// Number of reasons for a miss.
#[expect(clippy::cast_possible_truncation, reason = "a dozen")]
const MISSES: u32 = Miss::ALL.len() as u32;

/// The attached programs and their state. Dropping it detaches them.
pub struct Kernel {
    targets: MmapArray<Target>,
    histograms: Histograms,
    threads: Arc<MmapArray<Thread>>,
    misses: MmapArray<u64>,
    errors: HashMap<MapData, ErrorKey, u64>,
    target_by_process: HashMap<MapData, ProcessKey, u32>,
    thread_by_key: HashMap<MapData, ThreadKey, u32>,
    free_targets: Stack<MapData, u32>,
    free_threads: Stack<MapData, u32>,
    pids: HashMap<MapData, u32, u8>,
    pid_count: aya::maps::Array<MapData, u64>,
    records: RingBuf<MapData>,
    /// Present until a sampler takes it.
    slow: Option<SlowRing>,
    block: BlockIo,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    attached_boottime_ns: u64,
    programs: ProgramStats,
    hook: Hook,
    /// The files of the self-test, present after the first one.
    workload: Option<Workload>,
    /// Keeps the programs attached.
    ebpf: Ebpf,
}

/// A process that the programs measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its index in the kernel's arrays.
    pub target: u32,
    pub pid: u32,
    /// ns since boot. Together with `pid`, it identifies one incarnation of a process.
    pub started_ns: u64,
}

impl Kernel {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// Names what this kernel or these privileges do not allow; nothing is left attached in that case.
    pub fn attach(hook: Hook, config: &KernelConfig) -> Result<Self, KernelError> {
        Self::attach_to(&KernelLayout::read()?, hook, config)
    }

    /// Loads and attaches the programs for a kernel layout that was read before.
    fn attach_to(layout: &KernelLayout, hook: Hook, config: &KernelConfig) -> Result<Self, KernelError> {
        if !host::in_initial_pid_namespace() {
            return Err(KernelError::PidNamespace);
        }
        let (mut ebpf, block_programs) = load_object::load(layout, hook, config)?;
        let logger = if config.log { EbpfLogger::init(&mut ebpf).ok() } else { None };
        let mut free_targets =
            Stack::try_from(take(&mut ebpf, "FREE_TARGETS")?).map_err(in_map("FREE_TARGETS"))?;
        let mut free_threads =
            Stack::try_from(take(&mut ebpf, "FREE_THREADS")?).map_err(in_map("FREE_THREADS"))?;
        // The top of a stack is handed out first; low indices are easier to read in a log.
        for index in (0..config.target_slots()).rev() {
            free_targets.push(index, 0).map_err(in_map("FREE_TARGETS"))?;
        }
        for index in (0..THREADS).rev() {
            free_threads.push(index, 0).map_err(in_map("FREE_THREADS"))?;
        }
        let kernel = Self {
            targets: take_array(&mut ebpf, "TARGET_STATE", config.target_slots())?,
            histograms: Histograms::take(&mut ebpf, config.target_slots())?,
            threads: Arc::new(take_array(&mut ebpf, "THREAD_STATE", THREADS)?),
            misses: take_array(&mut ebpf, "MISSES", MISSES)?,
            errors: take_hash(&mut ebpf, "ERRORS")?,
            target_by_process: take_hash(&mut ebpf, "TARGET_BY_PROCESS")?,
            thread_by_key: take_hash(&mut ebpf, "THREAD_BY_KEY")?,
            free_targets,
            free_threads,
            pids: take_hash(&mut ebpf, "PIDS")?,
            pid_count: aya::maps::Array::try_from(take(&mut ebpf, "PID_COUNT")?)
                .map_err(in_map("PID_COUNT"))?,
            records: RingBuf::try_from(take(&mut ebpf, "RECORDS")?).map_err(in_map("RECORDS"))?,
            slow: Some(SlowRing::take(&mut ebpf, config.exact_causes)?),
            block: BlockIo::take(&mut ebpf)?,
            logger,
            attached_boottime_ns: 0,
            programs: ProgramStats::of(&ebpf),
            hook,
            workload: None,
            ebpf,
        };
        // Attach last, so that everything is in place before the first event.
        let mut kernel = Self { ebpf: hook.attach(kernel.ebpf, layout)?, ..kernel };
        kernel.attached_boottime_ns = now_ns(ClockId::Boottime);
        if config.exact_causes {
            exact_causes::attach(&mut kernel.ebpf)?;
        }
        let block_programs = if config.block {
            block_programs.and_then(|()| block_io::attach(&mut kernel.ebpf))
        } else {
            Ok(())
        };
        if let Err(error) = block_programs {
            kernel.block.set_failure(&error);
        }
        Ok(kernel)
    }

    /// Returns the tracing of block requests.
    pub fn block(&self) -> &BlockIo {
        &self.block
    }

    pub fn block_mut(&mut self) -> &mut BlockIo {
        &mut self.block
    }

    /// Returns how the programs are attached.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Returns whether a process that started at this time (ns since boot) was measured from its first system
    /// call.
    pub fn observed_start_of(&self, started_ns: u64) -> bool {
        started_ns > self.attached_boottime_ns
    }

    /// Returns the processes that the programs have found.
    pub fn processes(&self) -> Vec<Process> {
        let all = (0..self.targets.length()).map(|target| (target, self.targets.read(target)));
        let used = all.filter(|(target, state)| state.started_ns != 0 && self.can_read(*target));
        used.map(|(target, state)| Process { target, pid: state.tgid, started_ns: state.started_ns })
            .collect()
    }

    /// Returns whether a target's histograms are in our memory, after mapping them if necessary.
    fn can_read(&self, target: u32) -> bool {
        let mapped = self.histograms.map(target);
        if let Err(error) = &mapped {
            tracing::warn!(target, error = chain(error), "cannot measure a process");
        }
        mapped.is_ok()
    }

    /// Returns the state of a target, as the programs keep it.
    pub fn state(&self, target: u32) -> Target {
        self.targets.read(target)
    }

    /// Returns the current content of one histogram.
    pub fn latencies(&self, target: u32, series: u32) -> Latencies {
        self.histograms.latencies(target, series)
    }

    /// Returns how the time of one series was spent, and that of its slow events.
    pub fn time_spent(&self, target: u32, series: u32) -> TimeSpent {
        self.histograms.time_spent(target, series)
    }

    /// Returns how many events of a reconciled series have begun.
    pub fn entered(&self, target: u32, series: u32) -> u64 {
        self.histograms.entered(target, series)
    }

    /// Returns the number of events that were not measured, by reason.
    pub fn misses(&self) -> [(Miss, u64); Miss::ALL.len()] {
        Miss::ALL.map(|miss| (miss, self.misses.word(miss as u32, 0)))
    }

    /// Returns whether the kernel accounts for the time of threads, so that an operation's time can be split.
    pub fn has_sched_stats(&self) -> bool {
        self.misses.word(Miss::NoAccounting as u32, 0) == 0
    }

    /// Returns the run statistics of the programs, grouped by the calls that they observe. Reads one file per
    /// program.
    pub fn runs(&self) -> Vec<Vec<ProgramRuns>> {
        self.programs.runs()
    }

    /// Returns an upper bound of the calls that no program on a hook recorded. Reads one file per program.
    pub fn skipped_runs(&self) -> u64 {
        program_stats::skipped_runs(&self.runs())
    }

    /// Returns how often operations failed.
    pub fn errors(&self) -> Vec<(ErrorKey, u64)> {
        self.errors.iter().filter_map(Result::ok).collect()
    }

    /// Starts or stops measuring a process by its pid, independent of the names of its threads.
    ///
    /// # Errors
    /// If the kernel refuses; 64 processes at most.
    pub fn watch(&mut self, pid: u32, watched: bool) -> Result<(), KernelError> {
        if watched {
            self.pids.insert(pid, 1, 0).map_err(in_map("PIDS"))?;
        } else {
            self.pids.remove(&pid).map_err(in_map("PIDS"))?;
        }
        let count = self.pids.keys().filter_map(Result::ok).count() as u64;
        self.pid_count.set(0, count, 0).map_err(in_map("PID_COUNT"))
    }

    /// Returns whether maps can be read and changed, which is required whenever members start and exit.
    pub fn maps_are_accessible(&mut self) -> bool {
        let count = self.pid_count.get(&0, 0);
        count.is_ok_and(|count| self.pid_count.set(0, count, 0).is_ok())
    }

    /// Returns the latencies recorded since the last call, if recording is on.
    pub fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while let Some(bytes) = self.records.next() {
            // SAFETY: the programs write whole records, and any bit pattern is one.
            records.push(unsafe { bytes.as_ptr().cast::<Record>().read_unaligned() });
        }
        records
    }

    /// Forwards the programs' log lines to our log.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// Returns the current time, in ns, of the clock that measures latencies.
pub fn monotonic_ns() -> u64 {
    now_ns(ClockId::Monotonic)
}

fn now_ns(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    #[expect(clippy::cast_sign_loss, reason = "time since boot is not negative")]
    {
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}
