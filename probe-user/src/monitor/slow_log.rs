//! The last slow operations, for `trace` and `/api/v1/slow`.

use std::collections::VecDeque;

use crate::analysis::slow_operation::{LoggedOperation, SlowOperation};

/// How many operations are kept, over all members.
const CAPACITY: usize = 1000;

/// Slow operations, oldest first.
#[derive(Clone, Debug, Default)]
pub struct SlowLog {
    operations: VecDeque<LoggedOperation>,
    next: u64,
}

impl SlowLog {
    pub fn push(&mut self, member: String, operation: SlowOperation) {
        if self.operations.len() >= CAPACITY {
            self.operations.pop_front();
        }
        self.operations.push_back(LoggedOperation { sequence: self.next, member, operation });
        self.next += 1;
    }

    /// Returns the operations from this sequence number on; older ones that are missing have been dropped.
    pub fn since(&self, sequence: u64) -> impl DoubleEndedIterator<Item = &LoggedOperation> {
        self.operations.iter().filter(move |logged| logged.sequence >= sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_last_thousand_are_kept() {
        let mut log = SlowLog::default();
        for _ in 0..CAPACITY + 5 {
            let record = probe_ebpf::state::SlowEvent::NONE;
            log.push("m".to_owned(), SlowOperation::new(SystemTime::now(), record, &[], None));
        }
        let kept: Vec<u64> = log.since(0).map(|logged| logged.sequence).collect();
        assert_eq!((kept.len(), kept[0]), (CAPACITY, 5), "the oldest were dropped");
        assert_eq!(log.since(1003).count(), 2, "a reader continues at its position");
    }
}
