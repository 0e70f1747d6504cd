//! Counts I/O on the watched devices per owner: the pair of process and cgroup that causes it.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid};
use probe_ebpf::{
    io::{Owner, OwnerKey},
    miss::Miss,
    state::PF_KTHREAD,
};

use crate::{
    clock::now_ns,
    lookup::{
        kernel_memory::{field, task},
        process::comm,
    },
    maps::{FREE_OWNERS, LAYER_BY_DEVICE, OWNER_BY_KEY, OWNER_STATE, atomic_add, count},
    offset,
};

/// Counts a sync by a process that is not a target, if it is on a watched device.
#[inline(always)]
pub fn count_foreign_sync(dev: u32) {
    let Some(layer) = layer_by_device(dev) else { return };
    let now_ns = now_ns();
    let key = OwnerKey { cgroup: cgroup_of_task(), tgid: process(), layer };
    if let Some(owner) = find_or_add_owner(key, now_ns).and_then(|owner| OWNER_STATE.get_ptr_mut(owner)) {
        // SAFETY: the element exists as long as its map, and its fields are aligned.
        unsafe { atomic_add(&raw mut (*owner).syncs, 1) };
    }
}

/// Returns the watched layer of a device number.
#[inline(always)]
pub fn layer_by_device(dev: u32) -> Option<u32> {
    // SAFETY: only the daemon changes elements, and either the old or the new value may be returned.
    unsafe { LAYER_BY_DEVICE.get(dev) }.copied()
}

/// Returns the index of an owner, which takes a free one if it has none.
#[inline(always)]
pub fn find_or_add_owner(key: OwnerKey, now_ns: u64) -> Option<u32> {
    // SAFETY: only the daemon removes elements, long after their last use.
    if let Some(&index) = unsafe { OWNER_BY_KEY.get(key) } {
        let owner = OWNER_STATE.get_ptr_mut(index)?;
        // SAFETY: the element exists as long as its map.
        unsafe { (*owner).used_ns = now_ns };
        return Some(index);
    }
    let Some(index) = FREE_OWNERS.pop().ok().flatten() else {
        count(Miss::OwnersFull);
        return None;
    };
    let owner = OWNER_STATE.get_ptr_mut(index)?;
    // SAFETY: the element exists as long as its map, and the stack returns each index only once.
    unsafe {
        *owner = Owner { key, comm: comm(), used_ns: now_ns, used: 1, ..EMPTY };
    }
    if OWNER_BY_KEY.insert(key, index, BPF_NOEXIST.into()).is_ok() {
        return Some(index);
    }
    // Another thread was faster: return its index, and release this one.
    // SAFETY: the element exists as long as its map, and no other thread uses this index.
    unsafe { (*owner).used = 0 };
    let _ = FREE_OWNERS.push(index, 0); // The index came from this stack, so there is room.
    // SAFETY: only the daemon removes elements, long after their last use.
    unsafe { OWNER_BY_KEY.get(key) }.copied()
}

const EMPTY: Owner = Owner {
    key: OwnerKey { cgroup: 0, tgid: 0, layer: 0 },
    comm: [0; 2],
    requests: [0; 4],
    total_ns: [0; 4],
    bytes: 0,
    syncs: 0,
    used_ns: 0,
    used: 0,
};

/// Returns the running process; 0 for kernel threads, because it is chance which of them writes back a
/// process's data.
#[inline(always)]
pub fn process() -> u32 {
    match field::<u32>(task() as u64, offset!(task_flags)) {
        Some(flags) if flags & PF_KTHREAD != 0 => 0,
        _ => (bpf_get_current_pid_tgid() >> 32) as u32,
    }
}

/// Returns the cgroup that a bio is charged to: with cgroup v2 that of the writer, also if the kernel writes
/// the data back later.
#[inline(always)]
pub fn cgroup_of_bio(bio: u64) -> u64 {
    let path = || {
        let group: u64 = field(bio, offset!(bio_blkg)).filter(|group| *group != 0)?;
        let blkcg: u64 = field(group, offset!(blkg_blkcg))?;
        cgroup_id(field(blkcg, offset!(blkcg_cgroup))?)
    };
    path().unwrap_or(0)
}

/// Returns the cgroup of the running process, in the hierarchy that accounts for block I/O.
#[inline(always)]
fn cgroup_of_task() -> u64 {
    let path = || {
        let set: u64 = field(task() as u64, offset!(task_cgroups))?;
        let state: u64 = field(set, offset!(css_set_io))?;
        cgroup_id(field(state, offset!(css_cgroup))?)
    };
    path().unwrap_or(0)
}

#[inline(always)]
fn cgroup_id(cgroup: u64) -> Option<u64> {
    field(field(cgroup, offset!(cgroup_kn))?, offset!(kn_id))
}
