//! All state of the programs, and the globals that the daemon sets before it loads them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, RingBuf, Stack, StackTrace},
};
use probe_ebpf::{
    histogram::Histogram,
    io::{Bio, DEVICE_NUMBERS, LAYERS, LayerTotals, OWNERS, Owner, OwnerKey, SETS, WAYS},
    miss::Miss,
    offsets::Offsets,
    process_names::ProcessNames,
    series::SERIES,
    state::{ErrorKey, ProcessKey, Record, Target, Thread, ThreadKey, ThreadWaits},
};

/// `BPF_F_MMAPABLE` of `include/uapi/linux/bpf.h`, Linux 5.5: the daemon maps the array into its own memory.
const MMAPABLE: u32 = 1 << 10;

/// Processes at once. The daemon replaces this by the size of the map that it sets.
const TARGETS: u32 = 16;

pub use probe_ebpf::state::THREADS;

/// Offsets in the running kernel; read them with [`crate::offset`].
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::UNSET;

/// Names of the processes to measure.
#[unsafe(no_mangle)]
pub static PROCESS_NAMES: ProcessNames = ProcessNames::NONE;

/// 1: every latency is also written to [`RECORDS`], for tests of the histograms; 0 removes the code.
#[unsafe(no_mangle)]
pub static RECORDING: Global<u32> = Global::new(0);

/// A fault for tests of the cross-check: 1 drops and 2 doubles every thousandth event; 0 removes the code.
#[unsafe(no_mangle)]
pub static FAULT: Global<u32> = Global::new(0);

/// 1: every hook has two programs, [`probe_ebpf::state::PRIMARY`] and [`probe_ebpf::state::SECONDARY`]; 0
/// removes the code that lets one of them record a call.
#[unsafe(no_mangle)]
pub static HAS_SECONDARY: Global<u32> = Global::new(0);

/// Operations longer than this, in ns, are emitted individually.
#[unsafe(no_mangle)]
pub static SLOW_THRESHOLD_NS: Global<u64> = Global::new(0);

/// 1: bios are followed, and syncs of other processes counted.
#[unsafe(no_mangle)]
pub static TRACE_BLOCK_IO: Global<u32> = Global::new(0);

/// 1: the waits of threads are recorded at every switch; 0 removes the code.
#[unsafe(no_mangle)]
pub static EXACT_CAUSES: Global<u32> = Global::new(0);

/// 1: the verifier has the type of the running thread, so its fields can be loaded; 0: a helper reads them.
#[unsafe(no_mangle)]
pub static TYPED_TASK: Global<u32> = Global::new(0);

#[map]
pub static TARGET_BY_PROCESS: HashMap<ProcessKey, u32> = HashMap::with_max_entries(TARGETS, 0);

/// Free indexes of [`TARGET_STATE`], filled by the daemon. A stack needs no compare-and-swap, which 5.10
/// lacks.
#[map]
pub static FREE_TARGETS: Stack<u32> = Stack::with_max_entries(TARGETS, 0);

#[map]
pub static TARGET_STATE: Array<Target> = Array::with_max_entries(TARGETS, MMAPABLE);

/// A fixed block of [`SERIES`] histograms per target, shared by all CPUs: its size does not depend on their
/// number.
#[map]
pub static HISTOGRAMS: Array<Histogram> = Array::with_max_entries(TARGETS * SERIES, MMAPABLE);

/// One insertion per thread, not per operation: hash insertions are expensive.
#[map]
pub static THREAD_BY_KEY: HashMap<ThreadKey, u32> = HashMap::with_max_entries(THREADS, 0);

/// Free indexes of [`THREAD_STATE`], filled by the daemon.
#[map]
pub static FREE_THREADS: Stack<u32> = Stack::with_max_entries(THREADS, 0);

#[map]
pub static THREAD_STATE: Array<Thread> = Array::with_max_entries(THREADS, MMAPABLE);

/// Indexes of [`THREAD_STATE`] by the lowest bits of the thread id: a guess that is almost always right and
/// avoids the hash lookup. The key of the entry confirms it.
#[map]
pub static THREAD_GUESS: Array<u32> = Array::with_max_entries(THREADS, 0);

/// Processes that are targets regardless of the names of their threads; the daemon adds them.
#[map]
pub static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(64, 0);

/// Number of [`PIDS`], so that no lookup is made for other processes while it is 0.
#[map]
pub static PID_COUNT: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static ERRORS: HashMap<ErrorKey, u64> = HashMap::with_max_entries(1024, 0);

/// By [`Miss`].
#[map]
pub static MISSES: Array<u64> = Array::with_max_entries(Miss::ALL.len() as u32, MMAPABLE);

/// The debugging ring; the daemon reduces it to one page when it is off.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 22, 0);

/// Operations that took longer than [`SLOW_THRESHOLD_NS`].
#[map]
pub static SLOW_EVENTS: RingBuf = RingBuf::with_byte_size(1 << 17, 0);

/// The current second, and its number of slow events.
#[map]
pub static SLOW_BUDGET: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// By index of the thread. Without [`EXACT_CAUSES`] the daemon reduces this map and the stack traces to one
/// element.
#[map]
pub static THREAD_WAITS: Array<ThreadWaits> = Array::with_max_entries(THREADS, 0);

#[map]
pub static STACK_TRACES: StackTrace = StackTrace::with_max_entries(4096, 0);

/// Watched devices, by device number; filled by the daemon.
#[map]
pub static LAYER_BY_DEVICE: HashMap<u32, u32> = HashMap::with_max_entries(DEVICE_NUMBERS, 0);

#[map]
pub static LAYER_TOTALS: Array<LayerTotals> = Array::with_max_entries(LAYERS, MMAPABLE);

/// Bios in flight, each in one of the four entries of the set that its address selects: no insertion, no
/// deletion.
#[map]
pub static BIOS: Array<[Bio; WAYS as usize]> = Array::with_max_entries(SETS, MMAPABLE);

#[map]
pub static OWNER_BY_KEY: HashMap<OwnerKey, u32> = HashMap::with_max_entries(OWNERS, 0);

/// Free indexes of [`OWNER_STATE`], filled by the daemon.
#[map]
pub static FREE_OWNERS: Stack<u32> = Stack::with_max_entries(OWNERS, 0);

#[map]
pub static OWNER_STATE: Array<Owner> = Array::with_max_entries(OWNERS, MMAPABLE);

/// Events that [`FAULT`] counts.
#[map]
pub static FAULT_EVENTS: Array<u64> = Array::with_max_entries(1, 0);

const _: () = assert!(size_of::<Record>() == 24, "no padding allowed");

/// Reads one offset: a constant to the verifier, because the daemon freezes the globals that it sets.
#[macro_export]
macro_rules! offset {
    ($field:ident $([$index:expr])?) => {
        // SAFETY: a field of a static, so it is valid and aligned; volatile, because the daemon sets it after
        // the compiler has seen zero.
        (unsafe { core::ptr::read_volatile(&raw const $crate::maps::OFFSETS.$field $([$index])?) }) as usize
    };
}

/// Adds from any number of CPUs at once.
///
/// A plain `+=` on a counter per CPU would lose counts: programs on syscall tracepoints may be preempted
/// since Linux 57918341dd19 (2026). Relaxed order compiles to `lock xadd`, which 5.10 has; the fetching add
/// came with 5.12.
///
/// # Safety
/// `to` points to an aligned `u64` in a map.
#[inline(always)]
pub unsafe fn atomic_add(to: *mut u64, amount: u64) {
    // SAFETY: the caller guarantees an aligned `u64` in a map.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(to, amount);
    }
}

/// Counts an event that was not measured.
#[inline(always)]
pub fn count(miss: Miss) {
    if let Some(counter) = MISSES.get_ptr_mut(miss as u32) {
        // SAFETY: the element exists as long as its map, and `u64` elements are aligned.
        unsafe { atomic_add(counter, 1) };
    }
}
