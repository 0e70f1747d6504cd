//! The last slow operations, for whoever asks: `trace`, and `/api/v1/slow`.

use std::collections::VecDeque;

use crate::analysis::slow_operation::{LoggedOperation, SlowOperation};

/// How many are kept, of all members.
const KEPT: usize = 1000;

/// Slow operations, oldest first.
#[derive(Clone, Debug, Default)]
pub struct SlowLog {
    kept: VecDeque<LoggedOperation>,
    next: u64,
}

impl SlowLog {
    pub fn push(&mut self, member: String, operation: SlowOperation) {
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(LoggedOperation { sequence: self.next, member, operation });
        self.next += 1;
    }

    /// Returns those with this number or a later one; what came before and is not there any more has been dropped.
    pub fn since(&self, sequence: u64) -> impl DoubleEndedIterator<Item = &LoggedOperation> {
        self.kept.iter().filter(move |logged| logged.sequence >= sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_last_thousand_are_kept() {
        let mut log = SlowLog::default();
        for _ in 0..KEPT + 5 {
            let record = probe_ebpf::state::SlowEvent::NONE;
            log.push("m".to_owned(), SlowOperation::new(SystemTime::now(), record, &[], None));
        }
        let kept: Vec<u64> = log.since(0).map(|logged| logged.sequence).collect();
        assert_eq!((kept.len(), kept[0]), (KEPT, 5), "the oldest went");
        assert_eq!(log.since(1003).count(), 2, "whoever has read some gets the rest");
    }
}
