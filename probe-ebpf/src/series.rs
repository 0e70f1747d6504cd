//! Which histograms a target has: one per operation that etcd makes, and three that tell more than one system call.

/// What a file is to etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// A segment of the write-ahead log, under its own name or as the `0.tmp` or `1.tmp` it is pre-allocated as.
    Wal,
    /// The directory that holds the segments, and the one above it.
    WalDir,
    /// `member/snap/db`, the bbolt database.
    Backend,
    /// A raft snapshot, or a database received from the leader.
    Snapshot,
    /// The copy of the database that a defragmentation writes.
    Defrag,
}

impl Role {
    /// Returns the value of the label `file`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::WalDir => "wal_dir",
            Self::Backend => "backend",
            Self::Snapshot => "snapshot",
            Self::Defrag => "defrag",
        }
    }
}

/// A system call that etcd and bbolt make on their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Op {
    Fdatasync,
    Fsync,
    Write,
    Pwrite64,
    Ftruncate,
    Fallocate,
}

impl Op {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Fdatasync, Self::Fsync, Self::Write, Self::Pwrite64, Self::Ftruncate, Self::Fallocate];

    /// Returns the one with this number; of those that there are not, the last.
    #[inline(always)]
    pub const fn numbered(number: u32) -> Self {
        match number {
            0 => Self::Fdatasync,
            1 => Self::Fsync,
            2 => Self::Write,
            3 => Self::Pwrite64,
            4 => Self::Ftruncate,
            _ => Self::Fallocate,
        }
    }

    /// Returns the value of the label `op`: the name of the system call.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fdatasync => "fdatasync",
            Self::Fsync => "fsync",
            Self::Write => "write",
            Self::Pwrite64 => "pwrite64",
            Self::Ftruncate => "ftruncate",
            Self::Fallocate => "fallocate",
        }
    }

    /// Returns whether the value that the system call returns is a count of bytes.
    #[inline(always)]
    pub const fn returns_bytes(self) -> bool {
        matches!(self, Self::Write | Self::Pwrite64)
    }
}

/// The operations that exist; the position is the series. Append only: the daemon and the kernel share it.
pub const OPERATIONS: [(Role, Op); 17] = [
    (Role::Wal, Op::Write),
    (Role::Wal, Op::Fdatasync),
    (Role::Wal, Op::Fsync),
    (Role::Wal, Op::Ftruncate),
    (Role::Wal, Op::Fallocate),
    (Role::WalDir, Op::Fsync),
    (Role::Backend, Op::Pwrite64),
    (Role::Backend, Op::Fdatasync),
    (Role::Backend, Op::Fsync),
    (Role::Backend, Op::Ftruncate),
    (Role::Snapshot, Op::Write),
    (Role::Snapshot, Op::Fsync),
    (Role::Snapshot, Op::Fdatasync),
    (Role::Defrag, Op::Pwrite64),
    (Role::Defrag, Op::Fdatasync),
    (Role::Defrag, Op::Fsync),
    (Role::Defrag, Op::Ftruncate),
];

/// What `etcd_disk_wal_fsync_duration_seconds` observes: syncs of segments, of their directory and of the one above.
pub const WAL_FSYNC: u32 = 17;

/// What `etcd_disk_backend_commit_duration_seconds` observes, from a transaction's first write to the end of its
/// second `fdatasync`.
pub const BACKEND_COMMIT: u32 = 18;

/// The same up to the end of the write of the meta page: all there is of a commit with `--unsafe-no-fsync`.
pub const META_COMMIT: u32 = 19;

/// A `cut`: from the truncation of the full segment to the end of the directory's sync.
pub const WAL_ROTATION: u32 = 20;

/// Series of one target. A fixed block per target: no table of handed-out series can run out or leak.
pub const SERIES: u32 = 21;

const _: () = assert!(SERIES <= 24, "more cost a target another 7 KiB each");

/// Returns the series of an operation on a file of this role, or none if etcd makes no such call.
#[inline(always)]
pub const fn series(role: Role, op: Op) -> Option<u32> {
    let index = match (role, op) {
        (Role::Wal, Op::Write) => 0,
        (Role::Wal, Op::Fdatasync) => 1,
        (Role::Wal, Op::Fsync) => 2,
        (Role::Wal, Op::Ftruncate) => 3,
        (Role::Wal, Op::Fallocate) => 4,
        (Role::WalDir, Op::Fsync) => 5,
        (Role::Backend, Op::Pwrite64) => 6,
        (Role::Backend, Op::Fdatasync) => 7,
        (Role::Backend, Op::Fsync) => 8,
        (Role::Backend, Op::Ftruncate) => 9,
        (Role::Snapshot, Op::Write) => 10,
        (Role::Snapshot, Op::Fsync) => 11,
        (Role::Snapshot, Op::Fdatasync) => 12,
        (Role::Defrag, Op::Pwrite64) => 13,
        (Role::Defrag, Op::Fdatasync) => 14,
        (Role::Defrag, Op::Fsync) => 15,
        (Role::Defrag, Op::Ftruncate) => 16,
        _ => return None,
    };
    Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_match_agree() {
        for (index, (role, op)) in OPERATIONS.iter().enumerate() {
            assert_eq!(series(*role, *op), Some(u32::try_from(index).unwrap()), "{role:?} {op:?}");
        }
        assert_eq!(series(Role::WalDir, Op::Write), None, "nobody writes to a directory");
        assert_eq!(OPERATIONS.len(), WAL_FSYNC as usize, "the events follow the operations");
    }
}
