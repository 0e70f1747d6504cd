//! Follows block requests on the devices under etcd's files, from the queue to their completion, and tells who caused them.
//!
//! A request is a `struct bio` here: it has one life on every kind of device, dm and md included, which pass it on as
//! another one to the devices below. All others on the host pay for one look at their device's number.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use probe_ebpf::{
    layout::ABSENT,
    miss::Miss,
    request::{Class, LOST_AFTER_NS, NOBODY, Owner, OwnerKey, Request, SENT_FLUSH, WAYS, set_of},
    state::PF_KTHREAD,
};

use crate::{
    maps::{
        FREE_OWNERS, LAYER_BY_DEVICE, LAYER_TOTALS, OWNER_BY_KEY, OWNER_STATE, REQUESTS, atomic_add, count,
    },
    offset,
    operation::now_ns,
    target::{comm, is_target, known_thread, task},
};

/// The operation in the lower bits of `bio.bi_opf` (`REQ_OP_BITS`).
const OPERATION: u32 = 0xff;

/// `REQ_OP_FLUSH`, include/linux/blk_types.h: the same from 5.10 to 7.2.
const FLUSH: u32 = 2;

/// Bios of one request that are followed; of a longer one the rest is given up after a minute. Requests have 128 segments by
/// default (`BLK_MAX_SEGMENTS`).
const MERGED: u32 = 128;

/// Loads a word of the context.
macro_rules! load {
    ($ctx:ident, $instruction:literal) => {{
        let word: u64;
        // SAFETY: the verifier knows how many words a tracepoint has, and lets no other be loaded; the branch that would is dead.
        unsafe {
            core::arch::asm!($instruction, word = out(reg) word, ctx = in(reg) $ctx.as_ptr(), options(readonly, nostack));
        }
        word
    }};
}

/// Returns the bio or request: the first argument, or before Linux 5.11 the one behind the queue.
macro_rules! argument {
    ($ctx:ident, $position:ident) => {
        // In assembler, or LLVM makes one load of both, at an address that is computed, which no verifier allows in a context.
        if offset!($position) == 0 { load!($ctx, "{word} = *(u64 *)({ctx} + 0)") } else { load!($ctx, "{word} = *(u64 *)({ctx} + 8)") }
    };
}

#[raw_tracepoint(tracepoint = "block_bio_queue")]
pub fn block_bio_queue(ctx: RawTracePointContext) -> i32 {
    let bio = argument!(ctx, bio_queue_argument);
    if let Some(layer) = layer_of(bio) {
        queue(bio, layer);
    }
    0
}

#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_rq_issue(ctx: RawTracePointContext) -> i32 {
    let request = argument!(ctx, rq_issue_argument);
    let now_ns = now_ns();
    let bio: u64 = field(request, offset!(request_bio)).unwrap_or(0);
    if bio == 0 {
        send_flush(request, now_ns);
        return 0;
    }
    // The first bio keeps the time for all that were merged.
    if let Some(place) = place_of(bio) {
        // SAFETY: the element lives as long as its map; nobody else issues this bio.
        unsafe { (*place).issued_ns = now_ns };
    }
    0
}

/// Devices with requests of their own trace those, and their bios no more (`blk_update_request`, block/blk-mq.c).
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_rq_complete(ctx: RawTracePointContext) -> i32 {
    let request = ctx.arg::<u64>(0);
    let mut left = ctx.arg::<u64>(2) as u32;
    let mut bio: u64 = field(request, offset!(request_bio)).unwrap_or(0);
    if bio == 0 {
        end_bio(request, 0);
        return 0;
    }
    // SAFETY: the element lives as long as its map.
    let issued_ns = place_of(bio).map_or(0, |place| unsafe { (*place).issued_ns });
    for _ in 0..MERGED {
        // A request may complete in parts: what is left of the last bio completes later, and is the first then.
        let bytes: u32 = field(bio, offset!(bio_size)).unwrap_or(0);
        if bytes > left {
            if let Some(place) = place_of(bio) {
                // SAFETY: as above.
                unsafe { (*place).issued_ns = issued_ns };
            }
            break;
        }
        left -= bytes;
        end_bio(bio, issued_ns);
        bio = field(bio, offset!(bio_next)).unwrap_or(0);
        if bio == 0 {
            break;
        }
    }
    0
}

#[raw_tracepoint(tracepoint = "block_bio_complete")]
pub fn block_bio_complete(ctx: RawTracePointContext) -> i32 {
    end_bio(argument!(ctx, bio_complete_argument), 0);
    0
}

/// A request is over, if it is one of those that are followed; the driver got it then, or 0. Returns nothing: 0.
///
/// To the verifier this is a global function, which it looks at once, for any arguments (Linux 5.6), and not once for each turn of
/// the loop that calls it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn end_bio(bio: u64, issued_ns: u64) -> u64 {
    if let Some(place) = place_of(bio) {
        // SAFETY: the element lives as long as its map, and a bio completes once.
        let request = unsafe { *place };
        // SAFETY: as above.
        unsafe { (*place).bio = 0 };
        if request.class != SENT_FLUSH {
            complete(&Request { issued_ns, ..request });
        }
    }
    0
}

/// The block layer sends a flush by itself, for one or several that asked for one: it has no bio.
#[inline(always)]
fn send_flush(request: u64, now_ns: u64) {
    let flags: u32 = field(request, offset!(request_flags)).unwrap_or(0);
    if flags & OPERATION != FLUSH {
        return;
    }
    let disk = field(request, offset!(request_disk))
        .or_else(|| field(field(request, offset!(request_queue))?, offset!(queue_disk)));
    let Some(layer) = disk.and_then(number_of).and_then(layer_by_number) else { return };
    if let Some(place) = place_for(request, now_ns) {
        // SAFETY: the element lives as long as its map.
        unsafe {
            (*place).queued_ns = now_ns;
            (*place).issued_ns = now_ns;
            (*place).owner = NOBODY;
            (*place).layer = layer;
            (*place).class = SENT_FLUSH;
            (*place).bytes = 0;
            (*place).bio = request;
        }
    }
}

/// A request is queued on a watched device, by whoever runs.
#[inline(always)]
fn queue(bio: u64, layer: u32) {
    let opf: u32 = field(bio, offset!(bio_opf)).unwrap_or(0);
    let bytes: u32 = field(bio, offset!(bio_size)).unwrap_or(0);
    let class = Class::of(opf & OPERATION, opf & offset!(flush_flags) as u32 != 0);
    let now_ns = now_ns();
    let owner = owner(OwnerKey { cgroup: cgroup_of_bio(bio), tgid: process(), layer }, now_ns);
    if let Some(owner) = owner.and_then(|owner| OWNER_STATE.get_ptr_mut(owner)) {
        // SAFETY: the element lives as long as its map, its fields are aligned, and a class is a position.
        unsafe {
            atomic_add((&raw mut (*owner).requests).cast::<u64>().add(class as usize), 1);
            atomic_add(&raw mut (*owner).bytes, u64::from(bytes));
        }
    }
    match place_for(bio, now_ns) {
        // SAFETY: the element lives as long as its map.
        Some(place) => unsafe {
            (*place).queued_ns = now_ns;
            (*place).issued_ns = 0;
            (*place).owner = owner.unwrap_or(NOBODY);
            (*place).layer = layer;
            (*place).class = class as u32;
            (*place).bytes = bytes;
            // Last, for the daemon looks at it.
            (*place).bio = bio;
        },
        None => count(Miss::RequestsFull),
    }
    if is_target()
        && let Ok(Some(thread)) = known_thread()
    {
        thread.requests = thread.requests.wrapping_add(1);
        if matches!(class, Class::Flush) {
            thread.flushes = thread.flushes.wrapping_add(1);
        }
    }
}

#[inline(always)]
fn complete(request: &Request) {
    let now_ns = now_ns();
    let total_ns = now_ns.saturating_sub(request.queued_ns);
    let class = request.class as usize & 3;
    if let Some(layer) = LAYER_TOTALS.get_ptr_mut(request.layer) {
        // SAFETY: the element lives as long as its map, its fields are aligned, and the class is one of four.
        unsafe {
            let totals = (&raw mut (*layer).classes).cast::<probe_ebpf::request::ClassTotals>().add(class);
            atomic_add(&raw mut (*totals).requests, 1);
            atomic_add(&raw mut (*totals).bytes, u64::from(request.bytes));
            atomic_add(&raw mut (*totals).total_ns, total_ns);
            if request.issued_ns != 0 {
                atomic_add(&raw mut (*totals).queue_ns, request.issued_ns.saturating_sub(request.queued_ns));
                atomic_add(&raw mut (*totals).device_ns, now_ns.saturating_sub(request.issued_ns));
            }
        }
    }
    if let Some(owner) = OWNER_STATE.get_ptr_mut(request.owner) {
        // SAFETY: as above.
        unsafe { atomic_add((&raw mut (*owner).total_ns).cast::<u64>().add(class), total_ns) };
    }
}

/// Counts a sync by somebody who is not measured, if it is on a watched device.
#[inline(always)]
pub fn foreign_sync(dev: u32) {
    let Some(layer) = layer_by_number(dev) else { return };
    let now_ns = now_ns();
    let key = OwnerKey { cgroup: cgroup_of_task(), tgid: process(), layer };
    if let Some(owner) = owner(key, now_ns).and_then(|owner| OWNER_STATE.get_ptr_mut(owner)) {
        // SAFETY: the element lives as long as its map, and its fields are aligned.
        unsafe { atomic_add(&raw mut (*owner).syncs, 1) };
    }
}

/// Returns the watched layer that a request is on.
#[inline(always)]
fn layer_of(bio: u64) -> Option<u32> {
    let dev = if offset!(bio_bdev) == ABSENT as usize {
        number_of(field(bio, offset!(bio_disk))?)?
    } else {
        field(field(bio, offset!(bio_bdev))?, offset!(bdev_dev))?
    };
    layer_by_number(dev)
}

#[inline(always)]
fn layer_by_number(dev: u32) -> Option<u32> {
    // SAFETY: elements are changed by the daemon only, and a number may be from before or after.
    unsafe { LAYER_BY_DEVICE.get(dev) }.copied()
}

/// Returns the number of a `gendisk`.
#[inline(always)]
fn number_of(disk: u64) -> Option<u32> {
    let major: u32 = field(disk, offset!(disk_major))?;
    // `MKDEV`: twenty bits of minor
    Some(major << 20 | field::<u32>(disk, offset!(disk_first_minor))?)
}

/// Returns the places that a request may be in.
#[inline(always)]
fn places(bio: u64) -> Option<*mut Request> {
    REQUESTS.get_ptr_mut(set_of(bio)).map(<*mut [Request; WAYS as usize]>::cast)
}

/// Returns the place of a request that is in flight.
#[inline(always)]
fn place_of(bio: u64) -> Option<*mut Request> {
    let places = places(bio)?;
    for way in 0..WAYS as usize {
        // SAFETY: the element lives as long as its map, and holds this many.
        let place = unsafe { places.add(way) };
        // SAFETY: as above.
        if unsafe { (*place).bio } == bio {
            return Some(place);
        }
    }
    None
}

/// Returns a place for a request: the one that its address has already, a free one, or one that was lost.
#[inline(always)]
fn place_for(bio: u64, now_ns: u64) -> Option<*mut Request> {
    if let Some(place) = place_of(bio) {
        return Some(place);
    }
    let places = places(bio)?;
    for way in 0..WAYS as usize {
        // SAFETY: the element lives as long as its map, and holds this many.
        let place = unsafe { places.add(way) };
        // SAFETY: as above.
        let Request { bio: other, queued_ns, .. } = unsafe { *place };
        if other == 0 || now_ns.saturating_sub(queued_ns) > LOST_AFTER_NS {
            return Some(place);
        }
    }
    None
}

/// Returns the position of an owner, taking a free one if need be.
#[inline(always)]
fn owner(key: OwnerKey, now_ns: u64) -> Option<u32> {
    // SAFETY: elements are removed by the daemon only, long after they were last used.
    if let Some(&index) = unsafe { OWNER_BY_KEY.get(key) } {
        let owner = OWNER_STATE.get_ptr_mut(index)?;
        // SAFETY: the element lives as long as its map.
        unsafe { (*owner).used_ns = now_ns };
        return Some(index);
    }
    let Some(index) = FREE_OWNERS.pop().ok().flatten() else {
        count(Miss::OwnersFull);
        return None;
    };
    let owner = OWNER_STATE.get_ptr_mut(index)?;
    // SAFETY: the element lives as long as its map, and nobody else was given this position.
    unsafe {
        *owner = Owner { key, comm: comm(), used_ns: now_ns, used: 1, ..EMPTY };
    }
    if OWNER_BY_KEY.insert(key, index, BPF_NOEXIST.into()).is_ok() {
        return Some(index);
    }
    // Another thread was faster.
    // SAFETY: as above.
    unsafe { (*owner).used = 0 };
    let _ = FREE_OWNERS.push(index, 0); // It was taken from there, so there is room.
    // SAFETY: as above.
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

/// Returns the running process, 0 for the kernel's own threads: which of them writes somebody's data back is chance.
#[inline(always)]
fn process() -> u32 {
    match field::<u32>(task() as u64, offset!(task_flags)) {
        Some(flags) if flags & PF_KTHREAD != 0 => 0,
        _ => (bpf_get_current_pid_tgid() >> 32) as u32,
    }
}

/// Returns the cgroup that a request is charged to, which for data that the kernel writes back later is its writer's in version 2.
#[inline(always)]
fn cgroup_of_bio(bio: u64) -> u64 {
    let path = || {
        let group: u64 = field(bio, offset!(bio_blkg)).filter(|group| *group != 0)?;
        let blkcg: u64 = field(group, offset!(blkg_blkcg))?;
        cgroup_id(field(blkcg, offset!(blkcg_cgroup))?)
    };
    path().unwrap_or(0)
}

/// Returns the cgroup that the running process is in, of the hierarchy that accounts for block I/O.
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

/// Reads a field of a kernel structure, if this kernel has it.
#[inline(always)]
fn field<T>(base: u64, offset: usize) -> Option<T> {
    if offset == ABSENT as usize {
        return None;
    }
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel((base as *const u8).wrapping_add(offset).cast()) }.ok()
}
