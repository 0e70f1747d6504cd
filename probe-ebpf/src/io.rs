//! State that the kernel programs keep of I/O on the devices under etcd's files: bios in flight, totals per
//! device, and the processes and cgroups that cause the I/O.
//!
//! A bio is a `struct bio`: the unit that a file system queues on a device. The block layer merges bios into
//! a `struct request` before the driver gets them, on devices that have a driver queue.

/// Devices watched at once: the layers under the files of all members.
pub const LAYERS: u32 = 32;

/// Device numbers that map to these devices: each partition of a disk has one.
pub const DEVICE_NUMBERS: u32 = 256;

/// Bios in flight at once on the watched devices.
pub const BIOS: u32 = 2048;

/// Entries per set of the set-associative table of bios; the address of the bio selects the set.
pub const WAYS: u32 = 4;

/// Sets of the table: one element of the kernel's array each, so that one map lookup finds all four entries.
pub const SETS: u32 = BIOS / WAYS;

/// Age after which a bio without a recorded completion loses its entry.
pub const LOST_AFTER_NS: u64 = 60_000_000_000;

/// Pairs of process and cgroup that are counted separately on the watched devices.
pub const OWNERS: u32 = 512;

/// `Bio::owner` when the table of owners is full.
pub const NO_OWNER: u32 = u32::MAX;

/// `Bio::class` of a flush that the block layer sends on behalf of one or more bios. It keeps the device
/// busy; it is counted with those bios.
pub const FLUSH_REQUEST: u32 = 4;

/// The purpose of a bio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Class {
    Read,
    Write,
    /// Empties the device's write cache, or completes only when its own data is durable (`REQ_PREFLUSH`,
    /// `REQ_FUA`).
    Flush,
    /// Discards and zeroes: fstrim, unlinked segments.
    Discard,
}

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Discard];

    /// Returns the name in metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
        }
    }

    /// Returns the class of a bio by its operation and whether it carries a flush.
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

/// A bio in flight, from `block_bio_queue` to its completion; or a flush that the block layer sends by
/// itself.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Bio {
    /// Address of the `struct bio`, or of the `struct request` of a [`FLUSH_REQUEST`]; 0 while the entry is
    /// free.
    pub address: u64,
    pub queued_ns: u64,
    /// When the driver got it, stored with the first bio of the request that the driver got; 0 before, and on
    /// devices that remap bios to other devices, such as dm.
    pub issued_ns: u64,
    pub owner: u32,
    pub layer: u32,
    pub class: u32,
    pub bytes: u32,
}

const _: () = assert!(size_of::<Bio>() == 40, "no padding allowed");

/// Totals of one class of bios on one device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassTotals {
    /// Completed.
    pub requests: u64,
    pub bytes: u64,
    /// Queued ▶ complete.
    pub total_ns: u64,
    /// Queued ▶ issued to the driver, of the bios whose issue is known.
    pub queue_ns: u64,
    /// Issued ▶ complete, of the same bios.
    pub device_ns: u64,
}

/// Totals of one device, by [`Class`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerTotals {
    pub classes: [ClassTotals; 4],
}

const _: () = assert!(size_of::<LayerTotals>() == 160, "no padding allowed");

/// The cause of bios on one device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnerKey {
    /// Inode number of the cgroup that the bio is charged to; 0 if unknown.
    pub cgroup: u64,
    /// Process id in the initial pid namespace; 0 for kernel threads.
    pub tgid: u32,
    pub layer: u32,
}

/// The I/O of an owner on a device. The daemon maps these and reads them without a system call.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub key: OwnerKey,
    /// Name of the owner's first thread that caused I/O, as two words.
    pub comm: [u64; 2],
    /// Bios queued, by [`Class`].
    pub requests: [u64; 4],
    /// Time of the completed bios, by [`Class`].
    pub total_ns: [u64; 4],
    pub bytes: u64,
    /// Calls of `fsync` and `fdatasync` on file systems of the device; not counted for targets.
    pub syncs: u64,
    /// Time of the last bio or sync.
    pub used_ns: u64,
    /// 1 while the entry is in use.
    pub used: u64,
}

const _: () = assert!(size_of::<Owner>() == 128, "no padding allowed");

/// Returns the set whose entries a bio may use.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "nine bits are left")]
pub const fn set_of(address: u64) -> u32 {
    // Objects are some hundred bytes, so the lower bits of an address carry little information. Fibonacci
    // hashing uses the upper bits of the product.
    let hashed = address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS.ilog2());
    hashed as u32 & (SETS - 1)
}

#[cfg(feature = "user")]
mod pod {
    use super::{Bio, LayerTotals, Owner, OwnerKey};

    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for Bio {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for LayerTotals {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for Owner {}
    // SAFETY: `repr(C)`, `Copy`, integers only, no padding, so every bit pattern is valid.
    unsafe impl aya::Pod for OwnerKey {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bios_have_one_class() {
        let cases = [
            (0, false, Class::Read, "a read"),
            (1, false, Class::Write, "a write"),
            (1, true, Class::Flush, "a journal's commit record: PREFLUSH and FUA"),
            (2, false, Class::Flush, "the operation of a flush request"),
            (3, false, Class::Discard, "fstrim"),
            (9, false, Class::Discard, "zeroes"),
        ];
        for (operation, flushes, expected, why) in cases {
            assert_eq!(Class::of(operation, flushes), expected, "{why}");
        }
        for (index, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, index, "{}", class.as_str());
        }
    }

    #[test]
    fn sets_are_within_the_table_and_spread() {
        let mut used = [0_u32; SETS as usize];
        for n in 0..u64::from(SETS) {
            used[set_of(0xffff_8881_0000_0000 + n * 192) as usize] += 1;
        }
        assert!(used.iter().all(|n| *n <= WAYS), "as many neighbours in a slab as there are sets fit");
    }
}
