//! All state of the programs, and the values that the daemon sets before it loads them.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, HashMap, RingBuf, Stack, StackTrace},
};
use probe_ebpf::{
    histogram::Histogram,
    layout::{ABSENT, Names, Offsets},
    miss::Miss,
    request::{DEVICE_NUMBERS, LAYERS, LayerTotals, OWNERS, Owner, OwnerKey, Request, SETS, WAYS},
    series::SERIES,
    state::{ErrorKey, ProcessKey, Record, Target, Thread, ThreadKey, Waits},
};

/// `BPF_F_MMAPABLE` of `include/uapi/linux/bpf.h`, Linux 5.5: the daemon reads the array in its own memory.
const MMAPABLE: u32 = 1 << 10;

/// Processes at once. The daemon sets another number with the map's size.
const TARGETS: u32 = 16;

pub use probe_ebpf::state::THREADS;

/// Offsets in the running kernel; read them with [`crate::offset`].
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets {
    task_files: 0,
    task_group_leader: 0,
    task_start: 0,
    files_fdt: 0,
    fdt_max_fds: 0,
    fdt_fd: 0,
    file_dentry: 0,
    dentry_hash_len: 0,
    dentry_name: 0,
    dentry_parent: 0,
    dentry_inode: 0,
    inode_number: 0,
    inode_sb: 0,
    sb_dev: 0,
    regs_arguments: [0; 4],
    task_exec: ABSENT,
    task_run_delay: ABSENT,
    task_state: ABSENT,
    task_flags: ABSENT,
    task_cgroups: ABSENT,
    task_tgid: ABSENT,
    task_pid: ABSENT,
    task_comm: ABSENT,
    css_set_io: ABSENT,
    css_cgroup: ABSENT,
    cgroup_kn: ABSENT,
    kn_id: ABSENT,
    file_pos: ABSENT,
    bio_bdev: ABSENT,
    bdev_dev: ABSENT,
    bio_disk: ABSENT,
    disk_major: ABSENT,
    disk_first_minor: ABSENT,
    bio_opf: ABSENT,
    bio_size: ABSENT,
    bio_blkg: ABSENT,
    blkg_blkcg: ABSENT,
    blkcg_cgroup: ABSENT,
    bio_next: ABSENT,
    request_bio: ABSENT,
    request_flags: ABSENT,
    request_disk: ABSENT,
    request_queue: ABSENT,
    queue_disk: ABSENT,
    flush_flags: 0,
    bio_queue_argument: 0,
    bio_complete_argument: 0,
    rq_issue_argument: 0,
};

/// Names of the processes to measure.
#[unsafe(no_mangle)]
pub static NAMES: Names = Names::NONE;

/// 1: every latency goes to [`RECORDS`], too. For tests of the histograms; 0 removes the code.
#[unsafe(no_mangle)]
pub static RECORDING: Global<u32> = Global::new(0);

/// A fault for tests of the cross-check: 1 drops and 2 doubles every thousandth event; 0 removes the code.
#[unsafe(no_mangle)]
pub static FAULT: Global<u32> = Global::new(0);

/// 1: every hook has two programs, [`probe_ebpf::state::FIRST`] and its spare; 0 removes what they agree by.
#[unsafe(no_mangle)]
pub static SPARES: Global<u32> = Global::new(0);

/// Operations longer than this, in ns, are told of one by one.
#[unsafe(no_mangle)]
pub static SLOW_NS: Global<u64> = Global::new(0);

/// 1: block requests are followed, and others' syncs counted.
#[unsafe(no_mangle)]
pub static BLOCK: Global<u32> = Global::new(0);

/// 1: what threads wait for is recorded at every switch; 0 removes the code.
#[unsafe(no_mangle)]
pub static EXACT: Global<u32> = Global::new(0);

/// 1: the kernel knows the type of the running thread, so that its fields can be loaded; 0: they are read by a helper.
#[unsafe(no_mangle)]
pub static TYPED: Global<u32> = Global::new(0);

#[map]
pub static TARGET_BY_PROCESS: HashMap<ProcessKey, u32> = HashMap::with_max_entries(TARGETS, 0);

/// Free positions in [`TARGET_STATE`], filled by the daemon. A stack needs no compare-and-swap, which 5.10 lacks.
#[map]
pub static FREE_TARGETS: Stack<u32> = Stack::with_max_entries(TARGETS, 0);

#[map]
pub static TARGET_STATE: Array<Target> = Array::with_max_entries(TARGETS, MMAPABLE);

/// A fixed block of [`SERIES`] histograms per target, shared by all CPUs: memory does not grow with them.
#[map]
pub static HISTOGRAMS: Array<Histogram> = Array::with_max_entries(TARGETS * SERIES, MMAPABLE);

/// Entered once per thread, not per operation: hash insertions are dear.
#[map]
pub static THREAD_BY_KEY: HashMap<ThreadKey, u32> = HashMap::with_max_entries(THREADS, 0);

/// Free positions in [`THREAD_STATE`], filled by the daemon.
#[map]
pub static FREE_THREADS: Stack<u32> = Stack::with_max_entries(THREADS, 0);

#[map]
pub static THREAD_STATE: Array<Thread> = Array::with_max_entries(THREADS, MMAPABLE);

/// Positions in [`THREAD_STATE`] by the lowest bits of thread numbers: a guess that is right nearly always, and spares a look into
/// the hash. Whether it is right the key there tells.
#[map]
pub static THREAD_GUESS: Array<u32> = Array::with_max_entries(THREADS, 0);

/// Processes that are targets whatever their threads are called; the daemon adds them.
#[map]
pub static PIDS: HashMap<u32, u8> = HashMap::with_max_entries(64, 0);

/// How many [`PIDS`] there are, so that everybody else is not looked up among none.
#[map]
pub static PID_COUNT: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static ERRORS: HashMap<ErrorKey, u64> = HashMap::with_max_entries(1024, 0);

/// By [`Miss`].
#[map]
pub static MISSES: Array<u64> = Array::with_max_entries(Miss::ALL.len() as u32, MMAPABLE);

/// The debugging ring; the daemon makes it one page when it is off.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 22, 0);

/// Operations that took longer than [`SLOW_NS`].
#[map]
pub static SLOW: RingBuf = RingBuf::with_byte_size(1 << 17, 0);

/// The second that runs, and how many records it has had.
#[map]
pub static SLOW_BUDGET: Array<[u64; 2]> = Array::with_max_entries(1, 0);

/// By position of the thread; the daemon makes it one element without [`EXACT`], and likewise the stacks.
#[map]
pub static THREAD_WAITS: Array<Waits> = Array::with_max_entries(THREADS, 0);

#[map]
pub static STACKS: StackTrace = StackTrace::with_max_entries(4096, 0);

/// Watched devices, by number; the daemon fills it.
#[map]
pub static LAYER_BY_DEVICE: HashMap<u32, u32> = HashMap::with_max_entries(DEVICE_NUMBERS, 0);

#[map]
pub static LAYER_TOTALS: Array<LayerTotals> = Array::with_max_entries(LAYERS, MMAPABLE);

/// Requests in flight, in one of four places that the address tells: no insertion, no deletion.
#[map]
pub static REQUESTS: Array<[Request; WAYS as usize]> = Array::with_max_entries(SETS, MMAPABLE);

#[map]
pub static OWNER_BY_KEY: HashMap<OwnerKey, u32> = HashMap::with_max_entries(OWNERS, 0);

/// Free positions in [`OWNER_STATE`], filled by the daemon.
#[map]
pub static FREE_OWNERS: Stack<u32> = Stack::with_max_entries(OWNERS, 0);

#[map]
pub static OWNER_STATE: Array<Owner> = Array::with_max_entries(OWNERS, MMAPABLE);

/// Events that [`FAULT`] counts.
#[map]
pub static FAULT_EVENTS: Array<u64> = Array::with_max_entries(1, 0);

const _: () = assert!(size_of::<Record>() == 24, "no padding allowed");

/// Reads one offset; the verifier knows its value, since the daemon freezes what it sets.
#[macro_export]
macro_rules! offset {
    ($field:ident $([$index:expr])?) => {
        // SAFETY: a field of a static; volatile, because the daemon sets it after the compiler has seen zero.
        (unsafe { core::ptr::read_volatile(&raw const $crate::maps::OFFSETS.$field $([$index])?) }) as usize
    };
}

/// Adds from any number of CPUs at once.
///
/// A plain `+=` on a slot per CPU would lose counts: programs on syscall tracepoints may be preempted since
/// Linux 57918341dd19 (2026). Relaxed order compiles to `lock xadd`, which 5.10 knows; the fetching add came with 5.12.
///
/// # Safety
/// `to` points to an aligned `u64` in a map.
#[inline(always)]
pub unsafe fn atomic_add(to: *mut u64, amount: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(to, amount);
    }
}

/// Counts an event that was not measured.
#[inline(always)]
pub fn count(miss: Miss) {
    if let Some(counter) = MISSES.get_ptr_mut(miss as u32) {
        // SAFETY: a map's element lives as long as the map, and `u64` elements are aligned.
        unsafe { atomic_add(counter, 1) };
    }
}
