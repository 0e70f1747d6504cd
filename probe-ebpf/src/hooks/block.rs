//! Follows bios on the devices under etcd's files, from the queue to their completion, and counts them per
//! device and owner.
//!
//! A bio has one queue and one completion event on every kind of device, including dm and md, which remap it
//! to other bios on the devices below. For a bio on any other device of the host, the programs only look up
//! its device number.

use aya_ebpf::{EbpfContext, macros::raw_tracepoint, programs::RawTracePointContext};
use probe_ebpf::{
    io::{Bio, Class, ClassTotals, FLUSH_REQUEST, LOST_AFTER_NS, NO_OWNER, OwnerKey, WAYS, set_of},
    miss::Miss,
    offsets::ABSENT,
};

use crate::{
    clock::now_ns,
    lookup::{
        kernel_memory::field,
        process::{find_thread, is_target},
    },
    maps::{BIOS, LAYER_TOTALS, OWNER_STATE, atomic_add, count},
    offset,
    output::io_owners::{cgroup_of_bio, find_or_add_owner, layer_by_device, process},
};

/// The operation in the lower bits of `bio.bi_opf` (`REQ_OP_BITS`).
const OPERATION: u32 = 0xff;

/// `REQ_OP_FLUSH`, include/linux/blk_types.h: the same from 5.10 to 7.2.
const FLUSH: u32 = 2;

/// Bios of one request that are followed; in a longer request, the entries of the others expire after a
/// minute. Requests have 128 segments by default (`BLK_MAX_SEGMENTS`).
const MERGED: u32 = 128;

/// Loads a word of the context.
macro_rules! load {
    ($ctx:ident, $instruction:literal) => {{
        let word: u64;
        // SAFETY: the verifier has the number of words of a tracepoint and rejects any other load; the branch
        // that would make one is dead.
        unsafe {
            core::arch::asm!(
                $instruction,
                word = out(reg) word,
                ctx = in(reg) $ctx.as_ptr(),
                options(readonly, nostack)
            );
        }
        word
    }};
}

/// Returns the bio or request: the first argument, or before Linux 5.11 the second, after the queue.
macro_rules! argument {
    ($ctx:ident, $index:ident) => {
        // In assembler: LLVM would merge both into one load at a computed address, which no verifier allows
        // in a context.
        if offset!($index) == 0 {
            load!($ctx, "{word} = *(u64 *)({ctx} + 0)")
        } else {
            load!($ctx, "{word} = *(u64 *)({ctx} + 8)")
        }
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
    // The entry of the first bio holds the time for all merged bios.
    if let Some(entry) = find_entry(bio) {
        // SAFETY: the element exists as long as its map; no other CPU issues this bio.
        unsafe { (*entry).issued_ns = now_ns };
    }
    0
}

/// Devices with requests of their own trace the completion of requests, not of their bios
/// (`blk_update_request`, block/blk-mq.c).
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_rq_complete(ctx: RawTracePointContext) -> i32 {
    let request = ctx.arg::<u64>(0);
    let mut left = ctx.arg::<u64>(2) as u32;
    let mut bio: u64 = field(request, offset!(request_bio)).unwrap_or(0);
    if bio == 0 {
        end_bio(request, 0);
        return 0;
    }
    // SAFETY: the element exists as long as its map.
    let issued_ns = find_entry(bio).map_or(0, |entry| unsafe { (*entry).issued_ns });
    for _ in 0..MERGED {
        // A request may complete in parts: the rest of the last bio completes later, as the first bio of the
        // request.
        let bytes: u32 = field(bio, offset!(bio_size)).unwrap_or(0);
        if bytes > left {
            if let Some(entry) = find_entry(bio) {
                // SAFETY: the element exists as long as its map.
                unsafe { (*entry).issued_ns = issued_ns };
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

/// Completes a bio or flush request, if it is followed. `issued_ns` is when the driver got it, or 0. Always
/// returns 0.
///
/// A BPF global function (Linux 5.6), so the verifier checks it once, for any arguments, and not in each
/// iteration of the loop that calls it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn end_bio(address: u64, issued_ns: u64) -> u64 {
    if let Some(entry) = find_entry(address) {
        // SAFETY: the element exists as long as its map, and a bio completes once.
        let bio = unsafe { *entry };
        // SAFETY: the element exists as long as its map, and a bio completes once.
        unsafe { (*entry).address = 0 };
        if bio.class != FLUSH_REQUEST {
            complete(&Bio { issued_ns, ..bio });
        }
    }
    0
}

/// Adds a flush that the block layer sends by itself, on behalf of one or more bios that requested one. It
/// has no bio.
#[inline(always)]
fn send_flush(request: u64, now_ns: u64) {
    let flags: u32 = field(request, offset!(request_flags)).unwrap_or(0);
    if flags & OPERATION != FLUSH {
        return;
    }
    let disk = field(request, offset!(request_disk))
        .or_else(|| field(field(request, offset!(request_queue))?, offset!(queue_disk)));
    let Some(layer) = disk.and_then(device_number).and_then(layer_by_device) else { return };
    if let Some(entry) = entry_for(request, now_ns) {
        // SAFETY: the element exists as long as its map.
        unsafe {
            (*entry).queued_ns = now_ns;
            (*entry).issued_ns = now_ns;
            (*entry).owner = NO_OWNER;
            (*entry).layer = layer;
            (*entry).class = FLUSH_REQUEST;
            (*entry).bytes = 0;
            (*entry).address = request;
        }
    }
}

/// Adds a bio that the running thread queues on a watched device.
#[inline(always)]
fn queue(bio: u64, layer: u32) {
    let opf: u32 = field(bio, offset!(bio_opf)).unwrap_or(0);
    let bytes: u32 = field(bio, offset!(bio_size)).unwrap_or(0);
    let class = Class::of(opf & OPERATION, opf & offset!(flush_flags) as u32 != 0);
    let now_ns = now_ns();
    let owner = find_or_add_owner(OwnerKey { cgroup: cgroup_of_bio(bio), tgid: process(), layer }, now_ns);
    if let Some(owner) = owner.and_then(|owner| OWNER_STATE.get_ptr_mut(owner)) {
        // SAFETY: the element exists as long as its map, its fields are aligned, and a class is an index.
        unsafe {
            atomic_add((&raw mut (*owner).requests).cast::<u64>().add(class as usize), 1);
            atomic_add(&raw mut (*owner).bytes, u64::from(bytes));
        }
    }
    match entry_for(bio, now_ns) {
        // SAFETY: the element exists as long as its map.
        Some(entry) => unsafe {
            (*entry).queued_ns = now_ns;
            (*entry).issued_ns = 0;
            (*entry).owner = owner.unwrap_or(NO_OWNER);
            (*entry).layer = layer;
            (*entry).class = class as u32;
            (*entry).bytes = bytes;
            // Last: the daemon takes an entry with an address as complete.
            (*entry).address = bio;
        },
        None => count(Miss::RequestsFull),
    }
    if is_target()
        && let Ok(Some(thread)) = find_thread()
    {
        thread.requests = thread.requests.wrapping_add(1);
        if matches!(class, Class::Flush) {
            thread.flushes = thread.flushes.wrapping_add(1);
        }
    }
}

#[inline(always)]
fn complete(bio: &Bio) {
    let now_ns = now_ns();
    let total_ns = now_ns.saturating_sub(bio.queued_ns);
    let class = bio.class as usize & 3;
    if let Some(layer) = LAYER_TOTALS.get_ptr_mut(bio.layer) {
        // SAFETY: the element exists as long as its map, its fields are aligned, and the class is one of
        // four.
        unsafe {
            let totals = (&raw mut (*layer).classes).cast::<ClassTotals>().add(class);
            atomic_add(&raw mut (*totals).requests, 1);
            atomic_add(&raw mut (*totals).bytes, u64::from(bio.bytes));
            atomic_add(&raw mut (*totals).total_ns, total_ns);
            if bio.issued_ns != 0 {
                atomic_add(&raw mut (*totals).queue_ns, bio.issued_ns.saturating_sub(bio.queued_ns));
                atomic_add(&raw mut (*totals).device_ns, now_ns.saturating_sub(bio.issued_ns));
            }
        }
    }
    if let Some(owner) = OWNER_STATE.get_ptr_mut(bio.owner) {
        // SAFETY: the element exists as long as its map, its fields are aligned, and the class is one of
        // four.
        unsafe { atomic_add((&raw mut (*owner).total_ns).cast::<u64>().add(class), total_ns) };
    }
}

/// Returns the watched layer of a bio.
#[inline(always)]
fn layer_of(bio: u64) -> Option<u32> {
    let dev = if offset!(bio_bdev) == ABSENT as usize {
        device_number(field(bio, offset!(bio_disk))?)?
    } else {
        field(field(bio, offset!(bio_bdev))?, offset!(bdev_dev))?
    };
    layer_by_device(dev)
}

/// Returns the device number of a `gendisk`.
#[inline(always)]
fn device_number(disk: u64) -> Option<u32> {
    let major: u32 = field(disk, offset!(disk_major))?;
    // `MKDEV`: twenty bits of minor
    Some(major << 20 | field::<u32>(disk, offset!(disk_first_minor))?)
}

/// Returns the set of entries that a bio may use.
#[inline(always)]
fn entries(address: u64) -> Option<*mut Bio> {
    BIOS.get_ptr_mut(set_of(address)).map(<*mut [Bio; WAYS as usize]>::cast)
}

/// Returns the entry of a bio in flight.
#[inline(always)]
fn find_entry(address: u64) -> Option<*mut Bio> {
    let entries = entries(address)?;
    for way in 0..WAYS as usize {
        // SAFETY: the element exists as long as its map, and holds `WAYS` entries.
        let entry = unsafe { entries.add(way) };
        // SAFETY: the element exists as long as its map, and holds `WAYS` entries.
        if unsafe { (*entry).address } == address {
            return Some(entry);
        }
    }
    None
}

/// Returns an entry for a bio: the one that its address has already, a free one, or one whose bio was lost.
#[inline(always)]
fn entry_for(address: u64, now_ns: u64) -> Option<*mut Bio> {
    if let Some(entry) = find_entry(address) {
        return Some(entry);
    }
    let entries = entries(address)?;
    for way in 0..WAYS as usize {
        // SAFETY: the element exists as long as its map, and holds `WAYS` entries.
        let entry = unsafe { entries.add(way) };
        // SAFETY: the element exists as long as its map, and holds `WAYS` entries.
        let Bio { address: other, queued_ns, .. } = unsafe { *entry };
        if other == 0 || now_ns.saturating_sub(queued_ns) > LOST_AFTER_NS {
            return Some(entry);
        }
    }
    None
}
