//! Tells whether the running thread belongs to an etcd, and finds what is remembered of it.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{bpf_get_current_comm, bpf_get_current_task, bpf_get_current_task_btf},
    },
};
use probe_ebpf::{
    layout::{ABSENT, COMM_BYTES},
    miss::Miss,
    state::{ProcessKey, Target, Thread, ThreadKey},
};

use crate::{
    maps::{
        FREE_TARGETS, FREE_THREADS, NAMES, PID_COUNT, PIDS, TARGET_BY_PROCESS, TARGET_STATE, THREAD_BY_KEY,
        THREAD_GUESS, THREAD_STATE, THREADS, TYPED,
    },
    offset,
};

/// Returns whether the running thread is called like an etcd, or its process was named by the daemon.
///
/// This is all that the programs do for everybody else on the host.
#[inline(always)]
pub fn is_target() -> bool {
    NAMES.contain(comm()) || is_named_by_pid()
}

/// Returns the running thread's name as two words; aligned, or comparing it would take sixteen loads.
#[inline(always)]
pub fn comm() -> [u64; 2] {
    let comm = offset!(task_comm);
    if TYPED.load() != 0 && comm != ABSENT as usize {
        let task = typed_task();
        return [load(task, comm), load(task, comm + 8)];
    }
    let mut words = [0; 2];
    // SAFETY: the helper fills the bytes that it is told of. It cannot fail: there is a running thread.
    unsafe { bpf_get_current_comm((&raw mut words).cast(), COMM_BYTES as u32) };
    words
}

#[inline(always)]
fn is_named_by_pid() -> bool {
    match PID_COUNT.get(0) {
        None | Some(0) => false,
        Some(_) => PIDS.get_ptr((bpf_get_current_pid_tgid() >> 32) as u32).is_some(),
    }
}

/// Returns the same of any thread.
#[inline(always)]
pub fn is_called_like_target(task: *const u8) -> bool {
    if read::<[u64; 2]>(task, offset!(task_comm)).is_ok_and(|comm| NAMES.contain(comm)) {
        return true;
    }
    match PID_COUNT.get(0) {
        None | Some(0) => false,
        Some(_) => read::<u32>(task, offset!(task_tgid)).is_ok_and(|tgid| PIDS.get_ptr(tgid).is_some()),
    }
}

/// Reads a field of a kernel structure.
#[inline(always)]
pub fn read<T>(base: *const u8, offset: usize) -> Result<T, Miss> {
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel(base.wrapping_add(offset).cast()) }.map_err(|_| Miss::UnreadableFile)
}

/// Returns the running thread's `task_struct`.
#[inline(always)]
pub fn task() -> *const u8 {
    // SAFETY: the helper takes no arguments and may be called from any tracing program.
    unsafe { bpf_get_current_task() as *const u8 }
}

/// Returns the same with its type, for [`load`]; only where [`TYPED`] says so.
#[inline(always)]
pub fn typed_task() -> *const u8 {
    // SAFETY: as above; the helper is there since Linux 5.11.
    unsafe { bpf_get_current_task_btf() }.cast()
}

/// Loads a field of a kernel structure whose type the verifier knows: of the running thread, or of what such a field points to.
#[inline(always)]
pub fn load<T>(base: *const u8, offset: usize) -> T {
    // SAFETY: the verifier checks the offset against the type; the kernel makes a load that faults return zero.
    unsafe { base.wrapping_add(offset).cast::<T>().read_volatile() }
}

/// Returns what is remembered of the running thread, or none if it is not known yet.
#[inline(always)]
pub fn known_thread() -> Result<Option<&'static mut Thread>, Miss> {
    let key = thread_key()?;
    let guess = THREAD_GUESS.get_ptr_mut(key.pid_tgid as u32 % THREADS);
    if let Some(guess) = guess
        // SAFETY: elements live as long as their map, and a position is written as a whole.
        && let Some(thread) = thread_at(unsafe { guess.read_volatile() })
        // Only the running thread has its key, and its position keeps it until the thread is gone.
        && thread.key.pid_tgid == key.pid_tgid
        && thread.key.started_ns == key.started_ns
    {
        return Ok(Some(thread));
    }
    // SAFETY: elements are removed by the daemon only, once their thread is gone; this one is running.
    let Some(&index) = (unsafe { THREAD_BY_KEY.get(key) }) else { return Ok(None) };
    if let Some(guess) = guess {
        // SAFETY: as above.
        unsafe { guess.write_volatile(index) };
    }
    Ok(thread_at(index))
}

/// Returns what is remembered at a position of the running thread's.
#[inline(always)]
fn thread_at(index: u32) -> Option<&'static mut Thread> {
    // SAFETY: elements live as long as their map, and only the thread whose it is uses one.
    THREAD_STATE.get_ptr_mut(index).map(|thread| unsafe { &mut *thread })
}

/// Returns what is remembered of the running thread, beginning with this call if need be.
#[inline(always)]
pub fn thread() -> Result<&'static mut Thread, Miss> {
    if let Some(known) = known_thread()? {
        return Ok(known);
    }
    let key = thread_key()?;
    let target = target()?;
    let index = FREE_THREADS.pop().ok().flatten().ok_or(Miss::ThreadsFull)?;
    let thread = thread_at(index).ok_or(Miss::ThreadsFull)?;
    thread.key = key;
    thread.target = target;
    thread.index = index;
    thread.started_ns = 0;
    // Nobody else inserts this thread's key, so the only failure is a full table.
    THREAD_BY_KEY.insert(key, index, BPF_NOEXIST.into()).map_err(|_| Miss::ThreadsFull)?;
    Ok(thread)
}

/// Returns the state of a target.
#[inline(always)]
pub fn target_state(target: u32) -> Result<*mut Target, Miss> {
    TARGET_STATE.get_ptr_mut(target).ok_or(Miss::TargetsFull)
}

/// Returns the position of the running process, taking a free one if need be.
#[inline(always)]
fn target() -> Result<u32, Miss> {
    let key = process_key()?;
    // SAFETY: elements are removed by the daemon only, once their process is gone; this one is running.
    if let Some(index) = unsafe { TARGET_BY_PROCESS.get(key) } {
        return Ok(*index);
    }
    let index = FREE_TARGETS.pop().ok().flatten().ok_or(Miss::TargetsFull)?;
    let state = target_state(index)?;
    // SAFETY: the element lives as long as its map, and nobody else was given this position.
    unsafe {
        (*state).tgid = key.tgid as u32;
        (*state).started_ns = key.started_ns;
    }
    if TARGET_BY_PROCESS.insert(key, index, BPF_NOEXIST.into()).is_ok() {
        return Ok(index);
    }
    // Another thread of this process was faster: its position counts, ours goes back.
    // SAFETY: as above.
    unsafe { (*state).started_ns = 0 };
    let _ = FREE_TARGETS.push(index, 0); // It was taken from there, so there is room.
    // SAFETY: as above.
    unsafe { TARGET_BY_PROCESS.get(key) }.copied().ok_or(Miss::TargetsFull)
}

/// Returns whether the running process is a target already.
#[inline(always)]
pub fn is_known_process() -> Result<bool, Miss> {
    Ok(TARGET_BY_PROCESS.get_ptr(process_key()?).is_some())
}

#[inline(always)]
fn process_key() -> Result<ProcessKey, Miss> {
    let leader: *const u8 = read(task(), offset!(task_group_leader))?;
    Ok(ProcessKey { started_ns: read(leader, offset!(task_start))?, tgid: bpf_get_current_pid_tgid() >> 32 })
}

#[inline(always)]
fn thread_key() -> Result<ThreadKey, Miss> {
    let started_ns = if TYPED.load() != 0 {
        load(typed_task(), offset!(task_start))
    } else {
        read(task(), offset!(task_start))?
    };
    Ok(ThreadKey { pid_tgid: bpf_get_current_pid_tgid(), started_ns })
}
