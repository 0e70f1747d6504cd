//! The traced operations, and the series of histograms that every target has: one per operation that etcd
//! makes, and four composite ones, of events that etcd observes or that span several system calls.
//!
//! # How to add an operation
//!
//! 1. A new system call takes a row in `calls` of [`operations!`](crate::operations), with the next number.
//!    The row generates the [`Op`], its label and the programs on both kinds of hook, and the daemon attaches
//!    them and finds the number of the system call. Then add a row to `series` for each role of file that the
//!    call is made on.
//! 2. A call that is traced already, on another role of file, takes only the row in `series`.
//! 3. If the call returns a count of bytes, add it to [`Op::returns_bytes`]; if an argument other than the
//!    descriptor matters, to `Arguments::of` in `arguments.rs`.
//! 4. Make the call in the daemon's self-test: a test requires it for each row of `calls`.
//!
//! Append rows; do not reorder them. The four composite series follow the table, so their numbers grow by one
//! with each row. That is safe: the daemon contains the kernel programs that it loads, and no number is
//! stored.

/// The table of operations; passes it to the macro `generate`.
///
/// - `calls`: the number and name of each [`Op`], the value of the label `op`, which is
///   the kernel's name of the system call, and libc's constant of its number.
/// - `series`: the index of each series, the [`Role`] of the file, and the call.
#[macro_export]
macro_rules! operations {
    ($generate:ident) => {
        $generate! {
            calls {
                0 Fdatasync "fdatasync" SYS_fdatasync,
                1 Fsync "fsync" SYS_fsync,
                2 Write "write" SYS_write,
                3 Pwrite64 "pwrite64" SYS_pwrite64,
                4 Ftruncate "ftruncate" SYS_ftruncate,
                5 Fallocate "fallocate" SYS_fallocate,
            }
            series {
                0 Wal Write,
                1 Wal Fdatasync,
                2 Wal Fsync,
                3 Wal Ftruncate,
                4 Wal Fallocate,
                5 WalDir Fsync,
                6 Backend Pwrite64,
                7 Backend Fdatasync,
                8 Backend Fsync,
                9 Backend Ftruncate,
                10 Snapshot Write,
                11 Snapshot Fsync,
                12 Snapshot Fdatasync,
                13 Defrag Pwrite64,
                14 Defrag Fdatasync,
                15 Defrag Fsync,
                16 Defrag Ftruncate,
            }
        }
    };
}

/// The purpose of a file in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// A segment of the write-ahead log, under its own name or as the `0.tmp` or `1.tmp` it is pre-allocated
    /// as.
    Wal,
    /// The directory that holds the segments, and its parent.
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

/// Generates the types and lookups of the table.
macro_rules! define {
    (
        calls { $($number:literal $call:ident $name:literal $syscall:ident,)+ }
        series { $($index:literal $role:ident $op:ident,)+ }
    ) => {
        /// A system call that etcd and bbolt make on their files.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Op {
            $($call = $number,)+
        }

        impl Op {
            /// All of them, in the order of their numbers.
            pub const ALL: [Self; [$($number),+].len()] = [$(Self::$call),+];

            /// Returns the call with this number; the last one for a number that does not exist.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Self {
                const LAST: Op = Op::ALL[Op::ALL.len() - 1];
                match number {
                    $($number => Self::$call,)+
                    _ => LAST,
                }
            }

            /// Returns the value of the label `op`: the name of the system call.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$call => $name,)+
                }
            }
        }

        /// The operations, by the index of their series.
        pub const OPERATIONS: [(Role, Op); [$($index),+].len()] = [$((Role::$role, Op::$op)),+];

        /// Returns the series of an operation on a file of this role, or `None` if etcd makes no such call.
        #[inline(always)]
        pub const fn series(role: Role, op: Op) -> Option<u32> {
            let index = match (role, op) {
                $((Role::$role, Op::$op) => $index,)+
                _ => return None,
            };
            Some(index)
        }
    };
}

operations!(define);

impl Op {
    /// Returns whether the system call returns a count of bytes.
    #[inline(always)]
    pub const fn returns_bytes(self) -> bool {
        matches!(self, Self::Write | Self::Pwrite64)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a few dozen")]
const FIRST_COMPOSITE: u32 = OPERATIONS.len() as u32;

/// The events of `etcd_disk_wal_fsync_duration_seconds`: syncs of segments, of their directory and of its
/// parent.
pub const WAL_FSYNC: u32 = FIRST_COMPOSITE;

/// The events of `etcd_disk_backend_commit_duration_seconds`: from the first write of a transaction to the
/// end of its second `fdatasync`.
pub const BACKEND_COMMIT: u32 = FIRST_COMPOSITE + 1;

/// The same up to the end of the write of the meta page: the whole of a commit with `--unsafe-no-fsync`.
pub const META_COMMIT: u32 = FIRST_COMPOSITE + 2;

/// A `cut`: from the truncation of the full segment to the end of the sync of the directory.
pub const WAL_ROTATION: u32 = FIRST_COMPOSITE + 3;

/// Series of one target. Each target has a fixed block, so no table of allocated series can run out or leak.
pub const SERIES: u32 = FIRST_COMPOSITE + 4;

const _: () = assert!(SERIES <= 24, "each costs a target another 7 KiB");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_lookups_agree() {
        for (index, (role, op)) in OPERATIONS.iter().enumerate() {
            assert_eq!(series(*role, *op), Some(u32::try_from(index).unwrap()), "{role:?} {op:?}");
        }
        assert_eq!(series(Role::WalDir, Op::Write), None, "directories are not written to");
        for (number, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, number, "{op:?}");
            assert_eq!(Op::from_number(op as u32), op, "{op:?}");
        }
    }
}
