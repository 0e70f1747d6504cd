//! Reasons for which an event was not measured.

/// Why an event of a target was not measured. The number is the index in the map and the order of labels:
/// append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Miss {
    /// No block of histograms is free for another process.
    TargetsFull,
    /// No entry is free for another thread.
    ThreadsFull,
    /// A sync or allocation returned whose entry was not recorded, such as one in flight when the probe
    /// attached.
    ExitWithoutEnter,
    /// A thread began an operation before its previous one had ended.
    EnterWithoutExit,
    /// A target synced a file that has none of the roles.
    UnknownFile,
    /// An operation that etcd is not known to make on a file of that role.
    UnknownOperation,
    /// The file of a descriptor could not be read from the kernel.
    UnreadableFile,
    /// A WAL segment outside the directory of the target's first segment.
    ForeignWal,
    /// The page that a commit wrote could not be read; offset and length alone decide whether it was the meta
    /// page.
    UnreadablePage,
    /// A target has more than four databases open at once.
    BackendsFull,
    /// The table of failed operations is full.
    ErrorsFull,
    /// The debugging ring was full and lost a record.
    RingFull,
    /// The kernel keeps no scheduler statistics of threads: the split of an operation's time is unknown.
    NoAccounting,
    /// More slow operations in a second than are emitted individually: they are in the sums but not in the
    /// trace.
    SlowLimited,
    /// The ring of slow operations was full, with the same effect.
    SlowRingFull,
    /// More bios in flight on a watched device than the table has entries.
    RequestsFull,
    /// More processes and cgroups on the watched devices than are counted separately.
    OwnersFull,
}

impl Miss {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::TargetsFull,
        Self::ThreadsFull,
        Self::ExitWithoutEnter,
        Self::EnterWithoutExit,
        Self::UnknownFile,
        Self::UnknownOperation,
        Self::UnreadableFile,
        Self::ForeignWal,
        Self::UnreadablePage,
        Self::BackendsFull,
        Self::ErrorsFull,
        Self::RingFull,
        Self::NoAccounting,
        Self::SlowLimited,
        Self::SlowRingFull,
        Self::RequestsFull,
        Self::OwnersFull,
    ];

    /// Returns the value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TargetsFull => "targets_full",
            Self::ThreadsFull => "threads_full",
            Self::ExitWithoutEnter => "exit_without_enter",
            Self::EnterWithoutExit => "enter_without_exit",
            Self::UnknownFile => "unknown_file",
            Self::UnknownOperation => "unknown_operation",
            Self::UnreadableFile => "unreadable_file",
            Self::ForeignWal => "foreign_wal",
            Self::UnreadablePage => "unreadable_page",
            Self::BackendsFull => "backends_full",
            Self::ErrorsFull => "errors_full",
            Self::RingFull => "ring_full",
            Self::NoAccounting => "no_accounting",
            Self::SlowLimited => "slow_limited",
            Self::SlowRingFull => "slow_ring_full",
            Self::RequestsFull => "requests_full",
            Self::OwnersFull => "owners_full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indexes() {
        for (index, miss) in Miss::ALL.iter().enumerate() {
            assert_eq!(*miss as usize, index, "{}", miss.as_str());
        }
    }
}
