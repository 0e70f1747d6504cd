//! Determines whether the running thread belongs to a target, and finds its state.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_comm},
};
use probe_ebpf::{
    miss::Miss,
    offsets::ABSENT,
    process_names::COMM_BYTES,
    state::{ProcessKey, Target, Thread, ThreadKey},
};

use super::kernel_memory::{load, read, task, typed_task};
use crate::{
    maps::{
        FREE_TARGETS, FREE_THREADS, PID_COUNT, PIDS, PROCESS_NAMES, TARGET_BY_PROCESS, TARGET_STATE,
        THREAD_BY_KEY, THREAD_GUESS, THREAD_STATE, THREADS, TYPED_TASK,
    },
    offset,
};

/// Returns whether the running thread has the name of an etcd process, or the daemon watches its process.
///
/// For all other processes on the host, the programs do nothing else.
#[inline(always)]
pub fn is_target() -> bool {
    PROCESS_NAMES.contains(comm()) || is_watched()
}

/// Returns the running thread's name as two words; aligned, because comparing it would otherwise take sixteen
/// loads.
#[inline(always)]
pub fn comm() -> [u64; 2] {
    let comm = offset!(task_comm);
    if TYPED_TASK.load() != 0 && comm != ABSENT as usize {
        let task = typed_task();
        return [load(task, comm), load(task, comm + 8)];
    }
    let mut words = [0; 2];
    // SAFETY: the helper fills as many bytes as it is passed. It cannot fail: there is a running thread.
    unsafe { bpf_get_current_comm((&raw mut words).cast(), COMM_BYTES as u32) };
    words
}

#[inline(always)]
fn is_watched() -> bool {
    match PID_COUNT.get(0) {
        None | Some(0) => false,
        Some(_) => PIDS.get_ptr((bpf_get_current_pid_tgid() >> 32) as u32).is_some(),
    }
}

/// Returns the same as [`is_target`] for any thread.
#[inline(always)]
pub fn is_target_task(task: *const u8) -> bool {
    if read::<[u64; 2]>(task, offset!(task_comm)).is_ok_and(|comm| PROCESS_NAMES.contains(comm)) {
        return true;
    }
    match PID_COUNT.get(0) {
        None | Some(0) => false,
        Some(_) => read::<u32>(task, offset!(task_tgid)).is_ok_and(|tgid| PIDS.get_ptr(tgid).is_some()),
    }
}

/// Returns the state of the running thread, or `None` if it has none yet.
#[inline(always)]
pub fn find_thread() -> Result<Option<&'static mut Thread>, Miss> {
    let key = thread_key()?;
    let guess = THREAD_GUESS.get_ptr_mut(key.pid_tgid as u32 % THREADS);
    if let Some(guess) = guess
        // SAFETY: the element exists as long as its map, and an index is written as a whole.
        && let Some(thread) = thread_at(unsafe { guess.read_volatile() })
        // Only the running thread has its key, and its index belongs to it until the thread has ended.
        && thread.key.pid_tgid == key.pid_tgid
        && thread.key.started_ns == key.started_ns
    {
        return Ok(Some(thread));
    }
    // SAFETY: only the daemon removes elements, after their thread has ended; this one is running.
    let Some(&index) = (unsafe { THREAD_BY_KEY.get(key) }) else { return Ok(None) };
    if let Some(guess) = guess {
        // SAFETY: the element exists as long as its map, and an index is written as a whole.
        unsafe { guess.write_volatile(index) };
    }
    Ok(thread_at(index))
}

/// Returns the state at an index that belongs to the running thread.
#[inline(always)]
fn thread_at(index: u32) -> Option<&'static mut Thread> {
    // SAFETY: the element exists as long as its map, and only the thread that it belongs to uses it.
    THREAD_STATE.get_ptr_mut(index).map(|thread| unsafe { &mut *thread })
}

/// Returns the state of the running thread, which takes a free index if it has none.
#[inline(always)]
pub fn find_or_add_thread() -> Result<&'static mut Thread, Miss> {
    if let Some(known) = find_thread()? {
        return Ok(known);
    }
    let key = thread_key()?;
    let target = find_or_add_target()?;
    let index = FREE_THREADS.pop().ok().flatten().ok_or(Miss::ThreadsFull)?;
    let thread = thread_at(index).ok_or(Miss::ThreadsFull)?;
    thread.key = key;
    thread.target = target;
    thread.index = index;
    thread.started_ns = 0;
    // Only this thread inserts its key, so the only possible failure is a full table.
    THREAD_BY_KEY.insert(key, index, BPF_NOEXIST.into()).map_err(|_| Miss::ThreadsFull)?;
    Ok(thread)
}

/// Returns the state of a target.
#[inline(always)]
pub fn target_state(target: u32) -> Result<*mut Target, Miss> {
    TARGET_STATE.get_ptr_mut(target).ok_or(Miss::TargetsFull)
}

/// Returns the index of the running process, which takes a free one if it has none.
#[inline(always)]
fn find_or_add_target() -> Result<u32, Miss> {
    let key = process_key()?;
    // SAFETY: only the daemon removes elements, after their process has ended; this one is running.
    if let Some(index) = unsafe { TARGET_BY_PROCESS.get(key) } {
        return Ok(*index);
    }
    let index = FREE_TARGETS.pop().ok().flatten().ok_or(Miss::TargetsFull)?;
    let state = target_state(index)?;
    // SAFETY: the element exists as long as its map, and the stack returns each index only once.
    unsafe {
        (*state).tgid = key.tgid as u32;
        (*state).started_ns = key.started_ns;
    }
    if TARGET_BY_PROCESS.insert(key, index, BPF_NOEXIST.into()).is_ok() {
        return Ok(index);
    }
    // Another thread of this process was faster: return its index, and release this one.
    // SAFETY: the element exists as long as its map, and no other thread uses this index.
    unsafe { (*state).started_ns = 0 };
    let _ = FREE_TARGETS.push(index, 0); // The index came from this stack, so there is room.
    // SAFETY: only the daemon removes elements, after their process has ended; this one is running.
    unsafe { TARGET_BY_PROCESS.get(key) }.copied().ok_or(Miss::TargetsFull)
}

/// Returns whether the running process has state as a target already.
#[inline(always)]
pub fn has_target_state() -> Result<bool, Miss> {
    Ok(TARGET_BY_PROCESS.get_ptr(process_key()?).is_some())
}

#[inline(always)]
fn process_key() -> Result<ProcessKey, Miss> {
    let leader: *const u8 = read(task(), offset!(task_group_leader))?;
    Ok(ProcessKey { started_ns: read(leader, offset!(task_start))?, tgid: bpf_get_current_pid_tgid() >> 32 })
}

#[inline(always)]
fn thread_key() -> Result<ThreadKey, Miss> {
    let started_ns = if TYPED_TASK.load() != 0 {
        load(typed_task(), offset!(task_start))
    } else {
        read(task(), offset!(task_start))?
    };
    Ok(ThreadKey { pid_tgid: bpf_get_current_pid_tgid(), started_ns })
}
