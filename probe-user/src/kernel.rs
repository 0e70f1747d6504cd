//! The kernel half: everything that calls aya.
//!
//! [`Kernel::attach`] loads and attaches; from then on the counts are read from memory that we share with the kernel.

mod block_io;
mod kernel_histograms;
mod hook_kind;
mod attach;
mod in_flight;
mod load_object;
mod mmap_array;
mod struct_offsets;
mod preemption;
mod load_programs;
mod reclaim;
mod program_stats;
pub mod sampler;
mod self_test;
mod slow_ring;
mod start;
mod exact_causes;
mod attach_toggle;
mod tracefs;
mod btf;

use std::sync::Arc;

use aya::{
    Ebpf, EbpfError,
    maps::{HashMap, Map, MapData, MapError, RingBuf, Stack},
    programs::ProgramError,
};
use aya_log::EbpfLogger;
use probe_ebpf::{
    histogram::{SLOTS, SlowSums},
    miss::Miss,
    state::{ErrorKey, ProcessKey, Record, Target, Thread, ThreadKey},
};
use rustix::time::{ClockId, clock_gettime};

pub use attach_toggle::Toggle;
pub use block_io::Block;
pub use hook_kind::Hook;
pub use in_flight::InFlight;
use kernel_histograms::Histograms;
pub use load_object::{Fault, KernelConfig};
use mmap_array::Mapped;
use program_stats::Programs;
pub use program_stats::skipped;
pub use reclaim::NS_PER_TICK;
use self_test::Rehearsal;
pub use self_test::SelfTestError;
pub use slow_ring::{Shared, SlowRing};
pub use start::{HookChoice, StartError, start};
use struct_offsets::Layout;

use crate::{
    analysis::latency::{Latencies, TimeSpent},
    analysis::snapshot::ProgramRuns,
    support::logging::chain,
    system::host,
};

/// Threads at once, of all targets: `THREADS` of the kernel side.
const THREADS: u32 = 1024;

/// Reasons of misses.
#[expect(clippy::cast_possible_truncation, reason = "a dozen")]
const MISSES: u32 = Miss::ALL.len() as u32;

/// Words of a [`Histogram`] behind its slots.
const SUM_NS: usize = SLOTS;
const MAX_NS: usize = SLOTS + 1;
const BYTES: usize = SLOTS + 2;
const ENTERED: usize = SLOTS + 3;
const ON_CPU_NS: usize = SLOTS + 4;
const RUN_QUEUE_NS: usize = SLOTS + 5;
const SLOW: usize = SLOTS + 6;

/// Why the kernel half could not start: a message names the object and the way out.
/// The cause stays in `source`, so the chain prints it once.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "cannot tell the host's processes from inside a pid namespace; run in the host's (`--pid=host`, `hostPID: true`)"
    )]
    PidNamespace,
    #[error("cannot read /sys/kernel/btf/vmlinux ({0}); the kernel needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf(String),
    #[error("cannot find `{0}.{1}` in this kernel's BTF; please report its version")]
    NoField(&'static str, &'static str),
    #[error("cannot watch for process name `{0}`; at most four names, none empty")]
    TooManyNames(String),
    #[error("cannot create the kernel's maps")]
    Load(#[source] Box<EbpfError>),
    #[error("cannot load program `{0}`")]
    Verify(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot find program `{0}` in the object; build with `cargo xtask build`")]
    NoProgram(String),
    #[error("cannot find the function `{0}` in this kernel's BTF; take another --hook")]
    NoFunction(String),
    #[error("cannot attach the {hook} hook to `{place}`")]
    Attach { hook: &'static str, place: String, source: Box<ProgramError> },
    #[error("cannot find tracefs, nor mount it")]
    NoTracefs(#[source] std::io::Error),
    #[error("cannot open map `{0}`")]
    Map(&'static str, #[source] MapError),
    #[error("cannot map `{0}` into memory")]
    Memory(&'static str, #[source] std::io::Error),
}

impl KernelError {
    /// Returns whether this may be for want of a right.
    fn may_be_refusal(&self) -> bool {
        matches!(self, Self::Load(_) | Self::Verify(..) | Self::Attach { .. } | Self::NoTracefs(_))
    }

    /// Returns whether another kind of hook may do better.
    fn is_of_the_hook(&self) -> bool {
        matches!(
            self,
            Self::Verify(..)
                | Self::NoFunction(_)
                | Self::Attach { .. }
                | Self::NoTracefs(_)
                | Self::NoField("trace_entry", _)
        )
    }
}

/// The attached programs and their state. Dropping it detaches them.
pub struct Kernel {
    targets: Mapped<Target>,
    histograms: Histograms,
    threads: Arc<Mapped<Thread>>,
    misses: Mapped<u64>,
    errors: HashMap<MapData, ErrorKey, u64>,
    target_by_process: HashMap<MapData, ProcessKey, u32>,
    thread_by_key: HashMap<MapData, ThreadKey, u32>,
    free_targets: Stack<MapData, u32>,
    free_threads: Stack<MapData, u32>,
    pids: HashMap<MapData, u32, u8>,
    pid_count: aya::maps::Array<MapData, u64>,
    records: RingBuf<MapData>,
    /// Until a sampler takes it.
    slow: Option<SlowRing>,
    block: Block,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    attached_boottime_ns: u64,
    programs: Programs,
    hook: Hook,
    /// The files of the self-test, once there was one.
    rehearsal: Option<Rehearsal>,
    /// Keeps the programs attached.
    ebpf: Ebpf,
}

/// A process that the programs measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its position in the kernel's arrays.
    pub target: u32,
    pub pid: u32,
    /// ns since boot; with `pid` it tells one life of a process from another.
    pub started_ns: u64,
}

impl Kernel {
    /// Loads and attaches the programs.
    ///
    /// # Errors
    /// Names what this kernel or these privileges do not allow; then nothing is left attached.
    pub fn attach(hook: Hook, config: &KernelConfig) -> Result<Self, KernelError> {
        Self::attach_to(&Layout::read()?, hook, config)
    }

    /// Does this with the kernel's layout as it was read before.
    fn attach_to(layout: &Layout, hook: Hook, config: &KernelConfig) -> Result<Self, KernelError> {
        if !host::in_initial_pid_namespace() {
            return Err(KernelError::PidNamespace);
        }
        let (mut ebpf, blocks) = load_object::load(layout, hook, config)?;
        let logger = if config.log { EbpfLogger::init(&mut ebpf).ok() } else { None };
        let mut free_targets =
            Stack::try_from(take(&mut ebpf, "FREE_TARGETS")?).map_err(in_map("FREE_TARGETS"))?;
        let mut free_threads =
            Stack::try_from(take(&mut ebpf, "FREE_THREADS")?).map_err(in_map("FREE_THREADS"))?;
        // The top of a stack comes first; low numbers are easier to read in a log.
        for index in (0..config.places()).rev() {
            free_targets.push(index, 0).map_err(in_map("FREE_TARGETS"))?;
        }
        for index in (0..THREADS).rev() {
            free_threads.push(index, 0).map_err(in_map("FREE_THREADS"))?;
        }
        let kernel = Self {
            targets: mapped(&mut ebpf, "TARGET_STATE", config.places())?,
            histograms: Histograms::take(&mut ebpf, config.places())?,
            threads: Arc::new(mapped(&mut ebpf, "THREAD_STATE", THREADS)?),
            misses: mapped(&mut ebpf, "MISSES", MISSES)?,
            errors: hash(&mut ebpf, "ERRORS")?,
            target_by_process: hash(&mut ebpf, "TARGET_BY_PROCESS")?,
            thread_by_key: hash(&mut ebpf, "THREAD_BY_KEY")?,
            free_targets,
            free_threads,
            pids: hash(&mut ebpf, "PIDS")?,
            pid_count: aya::maps::Array::try_from(take(&mut ebpf, "PID_COUNT")?)
                .map_err(in_map("PID_COUNT"))?,
            records: RingBuf::try_from(take(&mut ebpf, "RECORDS")?).map_err(in_map("RECORDS"))?,
            slow: Some(SlowRing::take(&mut ebpf, config.exact_causes)?),
            block: Block::take(&mut ebpf)?,
            logger,
            attached_boottime_ns: 0,
            programs: Programs::of(&ebpf),
            hook,
            rehearsal: None,
            ebpf,
        };
        // Attaching comes last: the first event already finds everything in place.
        let mut kernel = Self { ebpf: hook.attach(kernel.ebpf, layout)?, ..kernel };
        kernel.attached_boottime_ns = now_ns(ClockId::Boottime);
        if config.exact_causes {
            exact_causes::attach(&mut kernel.ebpf)?;
        }
        let blocks =
            if config.block { blocks.and_then(|()| block_io::attach(&mut kernel.ebpf)) } else { Ok(()) };
        if let Err(error) = blocks {
            kernel.block.fail(&error);
        }
        Ok(kernel)
    }

    /// Returns what follows block requests.
    pub fn block(&self) -> &Block {
        &self.block
    }

    pub fn block_mut(&mut self) -> &mut Block {
        &mut self.block
    }

    /// Returns how the programs are attached.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Returns whether a process that started then (ns since boot) was measured from its first system call.
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

    /// Returns whether a target's histograms are in our memory, having mapped them if need be.
    fn can_read(&self, target: u32) -> bool {
        let mapped = self.histograms.map(target);
        if let Err(error) = &mapped {
            tracing::warn!(target, error = chain(error), "a process is not measured");
        }
        mapped.is_ok()
    }

    /// Returns the state of a target, as the programs keep it.
    pub fn state(&self, target: u32) -> Target {
        self.targets.read(target)
    }

    /// Returns one histogram as of now.
    pub fn latencies(&self, target: u32, series: u32) -> Latencies {
        let word = |word| self.histograms.word(target, series, word);
        // The sum first, then the slots: the programs write in the other order, so the sum never holds an event that
        // the slots lack.
        let (sum_ns, max_ns, bytes) = (word(SUM_NS), word(MAX_NS), word(BYTES));
        Latencies::new(Box::new(std::array::from_fn(word)), sum_ns, max_ns, bytes)
    }

    /// Returns how the time of one series was spent, and that of its slow events.
    pub fn time_spent(&self, target: u32, series: u32) -> TimeSpent {
        let word = |word| self.histograms.word(target, series, word);
        // Against the order in which they are written, so that no part exceeds its whole.
        let slow = |part: usize| word(SLOW + part);
        let (slow_run_queue_ns, slow_on_cpu_ns) = (slow(3), slow(2));
        let (slow_sum_ns, slow_events) = (slow(1), slow(0));
        let (run_queue_ns, on_cpu_ns) = (word(RUN_QUEUE_NS), word(ON_CPU_NS));
        TimeSpent {
            sum_ns: word(SUM_NS),
            on_cpu_ns,
            run_queue_ns,
            slow: SlowSums {
                events: slow_events,
                sum_ns: slow_sum_ns,
                on_cpu_ns: slow_on_cpu_ns,
                run_queue_ns: slow_run_queue_ns,
            },
        }
    }

    /// Returns how many events of a reconciled series have begun.
    pub fn entered(&self, target: u32, series: u32) -> u64 {
        self.histograms.word(target, series, ENTERED)
    }

    /// Returns what was not measured, by reason.
    pub fn misses(&self) -> [(Miss, u64); Miss::ALL.len()] {
        Miss::ALL.map(|miss| (miss, self.misses.word(miss as u32, 0)))
    }

    /// Returns whether the kernel accounts for the time of threads, so that an operation's can be split.
    pub fn keeps_accounts(&self) -> bool {
        self.misses.word(Miss::NoAccounting as u32, 0) == 0
    }

    /// Returns how the programs fared, those that see the same calls together; it takes a file each.
    pub fn runs(&self) -> Vec<Vec<ProgramRuns>> {
        self.programs.runs()
    }

    /// Returns how many calls none of the programs on a hook can have seen, at most; it takes a file each.
    pub fn skipped_runs(&self) -> u64 {
        program_stats::skipped(&self.runs())
    }

    /// Returns how often operations failed.
    pub fn errors(&self) -> Vec<(ErrorKey, u64)> {
        self.errors.iter().filter_map(Result::ok).collect()
    }

    /// Measures a process whatever its threads are called, or stops to.
    ///
    /// # Errors
    /// If the kernel refuses; sixty-four processes at most.
    pub fn watch(&mut self, pid: u32, watched: bool) -> Result<(), KernelError> {
        if watched {
            self.pids.insert(pid, 1, 0).map_err(in_map("PIDS"))?;
        } else {
            self.pids.remove(&pid).map_err(in_map("PIDS"))?;
        }
        let count = self.pids.keys().filter_map(Result::ok).count() as u64;
        self.pid_count.set(0, count, 0).map_err(in_map("PID_COUNT"))
    }

    /// Returns whether maps can be read and changed, as they have to be while members come and go.
    pub fn maps_answer(&mut self) -> bool {
        let count = self.pid_count.get(&0, 0);
        count.is_ok_and(|count| self.pid_count.set(0, count, 0).is_ok())
    }

    /// Returns the latencies that came since the last call, if recording is on.
    pub fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while let Some(bytes) = self.records.next() {
            // SAFETY: the programs write whole records, and any bit pattern is one.
            records.push(unsafe { bytes.as_ptr().cast::<Record>().read_unaligned() });
        }
        records
    }

    /// Passes the programs' log lines on to ours.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

/// Returns ns of the clock that latencies are measured with.
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

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    let missing = || KernelError::Map(name, MapError::InvalidName { name: name.to_owned() });
    ebpf.take_map(name).ok_or_else(missing)
}

fn hash<K: aya::Pod, V: aya::Pod>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<HashMap<MapData, K, V>, KernelError> {
    HashMap::try_from(take(ebpf, name)?).map_err(in_map(name))
}

fn mapped<T: aya::Pod>(ebpf: &mut Ebpf, name: &'static str, length: u32) -> Result<Mapped<T>, KernelError> {
    match take(ebpf, name)? {
        Map::Array(map) => Mapped::new(name, &map, length),
        _ => Err(KernelError::Map(name, MapError::InvalidName { name: name.to_owned() })),
    }
}

fn in_map(name: &'static str) -> impl Fn(MapError) -> KernelError {
    move |error| KernelError::Map(name, error)
}
