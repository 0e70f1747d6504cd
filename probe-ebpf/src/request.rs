//! What the kernel remembers of block requests on the devices under etcd's files, and of who caused them.

/// Devices watched at once: the layers under the files of all members.
pub const LAYERS: u32 = 32;

/// Device numbers that lead to them: every partition of a disk is one.
pub const DEVICE_NUMBERS: u32 = 256;

/// Requests in flight at once on the watched devices.
pub const REQUESTS: u32 = 2048;

/// Places that one request can be kept in; which ones, its address tells.
pub const WAYS: u32 = 4;

/// Sets of such places: one element of the kernel's array each, so that one look finds all four.
pub const SETS: u32 = REQUESTS / WAYS;

/// A request whose end was not seen for this long gives up its place.
pub const LOST_AFTER_NS: u64 = 60_000_000_000;

/// Processes and cgroups that are told apart on the watched devices.
pub const OWNERS: u32 = 512;

/// No owner: the table was full.
pub const NOBODY: u32 = u32::MAX;

/// `Request::class` of a flush that the block layer sends for one or several others: it keeps the device busy, and is counted
/// with those.
pub const SENT_FLUSH: u32 = 4;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Class {
    Read,
    Write,
    /// Empties the device's write cache, or waits until its own data is past it (`REQ_PREFLUSH`, `REQ_FUA`).
    Flush,
    /// Discards and zeroes: fstrim, unlinked segments.
    Discard,
}

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Discard];

    /// Returns its name as metrics and reports have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
        }
    }

    /// Tells a request's class from its operation and whether it carries a flush.
    #[inline(always)]
    pub const fn of(operation: u32, flushes: bool) -> Self {
        // `enum req_op`, include/linux/blk_types.h, 5.10 to 7.2: DISCARD 3, SECURE_ERASE 5, WRITE_ZEROES 9.
        match operation {
            _ if flushes => Self::Flush,
            0 => Self::Read,
            2 => Self::Flush,
            3 | 5 | 9 => Self::Discard,
            _ => Self::Write,
        }
    }
}

/// A request in flight: a `struct bio` from `block_bio_queue` to its completion, or a flush that the block layer sends by itself.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Address of the `bio`, of a [`SENT_FLUSH`] of the `request`; 0 while the place is free.
    pub bio: u64,
    pub queued_ns: u64,
    /// When the driver got it, kept with the first bio of what it got; 0 before, and on devices that pass requests on instead, such
    /// as dm.
    pub issued_ns: u64,
    pub owner: u32,
    pub layer: u32,
    pub class: u32,
    pub bytes: u32,
}

const _: () = assert!(size_of::<Request>() == 40, "no padding allowed");

/// What one class of requests came to on one device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassTotals {
    /// Completed.
    pub requests: u64,
    pub bytes: u64,
    /// Queued ▶ complete.
    pub total_ns: u64,
    /// Queued ▶ issued to the driver, of those of which it is known.
    pub queue_ns: u64,
    /// Issued ▶ complete, of the same.
    pub device_ns: u64,
}

/// What one device did; by [`Class`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerTotals {
    pub classes: [ClassTotals; 4],
}

const _: () = assert!(size_of::<LayerTotals>() == 160, "no padding allowed");

/// Who caused requests, on which device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnerKey {
    /// Inode number of the cgroup that the request is charged to; 0 if unknown.
    pub cgroup: u64,
    /// Process, as the initial pid namespace numbers it; 0 for the kernel's own threads.
    pub tgid: u32,
    pub layer: u32,
}

/// What an owner did on a device. The daemon maps these and reads them without a system call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub key: OwnerKey,
    /// Name of the thread that was seen first, as two words.
    pub comm: [u64; 2],
    /// Queued, by [`Class`].
    pub requests: [u64; 4],
    /// Time of those that have completed, by [`Class`].
    pub total_ns: [u64; 4],
    pub bytes: u64,
    /// Calls of `fsync` and `fdatasync` on file systems of the device; not counted for those that are measured.
    pub syncs: u64,
    /// When it was last seen.
    pub used_ns: u64,
    /// 1 while the entry is in use.
    pub used: u64,
}

const _: () = assert!(size_of::<Owner>() == 128, "no padding allowed");

/// Returns the set of places that a request may be in.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "nine bits are left")]
pub const fn set_of(bio: u64) -> u32 {
    // The address of an object of some hundred bytes: its lower bits tell little. Fibonacci hashing takes the upper ones of
    // the product.
    let hashed = bio.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS.ilog2());
    hashed as u32 & (SETS - 1)
}

#[cfg(feature = "user")]
mod pod {
    use super::{LayerTotals, Owner, OwnerKey, Request};

    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for LayerTotals {}
    // SAFETY: see above.
    unsafe impl aya::Pod for Owner {}
    // SAFETY: see above.
    unsafe impl aya::Pod for OwnerKey {}
    // SAFETY: see above.
    unsafe impl aya::Pod for Request {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_one_class() {
        let cases = [
            (0, false, Class::Read, "a read"),
            (1, false, Class::Write, "a write"),
            (1, true, Class::Flush, "a journal's commit record: PREFLUSH and FUA"),
            (2, false, Class::Flush, "what a flush is sent as"),
            (3, false, Class::Discard, "fstrim"),
            (9, false, Class::Discard, "zeroes"),
        ];
        for (operation, flushes, expected, why) in cases {
            assert_eq!(Class::of(operation, flushes), expected, "{why}");
        }
        for (position, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, position, "{}", class.as_str());
        }
    }

    #[test]
    fn places_are_within_the_table_and_spread() {
        let mut used = [0_u32; SETS as usize];
        for n in 0..u64::from(SETS) {
            used[set_of(0xffff_8881_0000_0000 + n * 192) as usize] += 1;
        }
        assert!(used.iter().all(|n| *n <= WAYS), "as many neighbours in a slab as there are sets fit");
    }
}
