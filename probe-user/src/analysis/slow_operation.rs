//! One slow operation and what it waited for: pure, from the kernel's record and the samples that were taken meanwhile.

use std::{collections::BTreeMap, time::SystemTime};

use probe_ebpf::{
    io::OwnerKey,
    series::{OPERATIONS, Op, Role},
    state::SlowEvent,
};

use crate::analysis::causes::{Cause, PerCause};

/// Nanoseconds by [`Cause`].
pub type Waits = PerCause<u64>;

/// What a thread was seen in, and how long that stands for: since the last sample, or since the operation began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub cause: Cause,
    /// The innermost functions, for people.
    pub frames: String,
    /// Whether any request was in flight on the devices under the file; none where that is not followed.
    pub device_busy: Option<bool>,
    pub stands_for_ns: u64,
}

/// An operation that took longer than the threshold.
#[derive(Clone, Debug)]
pub struct SlowOperation {
    /// When it ended.
    pub at: SystemTime,
    pub record: SlowEvent,
    /// The blocked time by what was waited for. Adds up to all of it.
    pub waits: Waits,
    /// The same by samples, where `waits` are exact.
    pub sampled: Option<Waits>,
    /// Of the blocked time, by samples: nothing of the device's was in flight, and something was.
    pub device_idle_ns: u64,
    pub device_busy_ns: u64,
    /// Where it was blocked, and for how long.
    pub frames: BTreeMap<(Cause, String), u64>,
    /// Who else was active on the device meanwhile, the busiest first.
    pub neighbours: Vec<Activity>,
}

/// What somebody did on a device while an operation was slow, or up to a second before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    pub key: OwnerKey,
    pub comm: [u64; 2],
    pub requests: u64,
    pub flushes: u64,
    pub syncs: u64,
    pub bytes: u64,
}

impl SlowOperation {
    /// Puts together what is known of an operation. `exact` are its waits, if they were recorded at every switch.
    pub fn new(
        at: SystemTime,
        record: SlowEvent,
        samples: &[Sample],
        exact: Option<&[(Cause, String, u64)]>,
    ) -> Self {
        let blocked_ns = blocked_ns(&record);
        let mut operation = Self {
            at,
            record,
            waits: Waits::default(),
            sampled: None,
            device_idle_ns: 0,
            device_busy_ns: 0,
            frames: BTreeMap::new(),
            neighbours: Vec::new(),
        };
        operation.take_samples(blocked_ns, samples);
        if let Some(exact) = exact {
            operation.sampled = Some(operation.waits);
            operation.take_exact(blocked_ns, exact);
        }
        operation
    }

    /// Gives each sample its share of the time that the thread was blocked, which is known exactly.
    fn take_samples(&mut self, blocked_ns: u64, samples: &[Sample]) {
        let all_ns: u64 = samples.iter().map(|sample| sample.stands_for_ns).sum();
        let mut left_ns = blocked_ns;
        for sample in samples {
            let share_ns = share(blocked_ns, sample.stands_for_ns, all_ns).min(left_ns);
            left_ns -= share_ns;
            self.waits[sample.cause] += share_ns;
            *self.frames.entry((sample.cause, sample.frames.clone())).or_default() += share_ns;
            match sample.device_busy {
                Some(true) => self.device_busy_ns += share_ns,
                Some(false) => self.device_idle_ns += share_ns,
                None => {}
            }
        }
        // Without samples all of it, else what rounding left.
        let rest = samples.last().map_or(Cause::Unsampled, |sample| sample.cause);
        self.waits[rest] += left_ns;
    }

    fn take_exact(&mut self, blocked_ns: u64, exact: &[(Cause, String, u64)]) {
        self.waits = Waits::default();
        self.frames.clear();
        let all_ns: u64 = exact.iter().map(|(.., ns)| ns).sum();
        // The time on a processor is known to a tick only; if it takes too much, the waits are cut so that the parts still are no
        // more than the whole.
        let whole_ns = all_ns.max(blocked_ns);
        let mut left_ns = blocked_ns;
        for (cause, frames, ns) in exact {
            let share_ns = share(blocked_ns, *ns, whole_ns).min(left_ns);
            left_ns -= share_ns;
            self.waits[*cause] += share_ns;
            *self.frames.entry((*cause, frames.clone())).or_default() += share_ns;
        }
        self.waits[Cause::Unsampled] += left_ns;
    }

    /// Returns what it was on, and which call it was.
    pub fn operation(&self) -> Option<(Role, Op)> {
        OPERATIONS.get(self.record.series as usize).copied()
    }
}

/// A slow operation and whose it was.
#[derive(Clone, Debug)]
pub struct LoggedOperation {
    /// Counts up from 0 without a gap.
    pub sequence: u64,
    pub member: String,
    pub operation: SlowOperation,
}

/// Returns how long the thread waited for anything but a processor.
pub fn blocked_ns(record: &SlowEvent) -> u64 {
    let split = record.split;
    record.latency_ns.saturating_sub(split.on_cpu_ns).saturating_sub(split.run_queue_ns)
}

/// Returns the name of a process; the kernel's own threads are one, for which of them does something is chance.
pub fn comm(tgid: u32, words: [u64; 2]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8_lossy(&bytes);
    // What a process calls itself is not ours to trust on somebody's terminal.
    let name: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if tgid == 0 { format!("kernel ({name})") } else { name }
}

/// Returns `part / whole` of an amount.
fn share(amount: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use probe_ebpf::state::Split;

    use super::*;

    fn record(latency_ns: u64, on_cpu_ns: u64, run_queue_ns: u64) -> SlowEvent {
        SlowEvent { latency_ns, split: Split { on_cpu_ns, run_queue_ns }, series: 1, ..SlowEvent::NONE }
    }

    fn sample(cause: Cause, busy: bool, stands_for_ns: u64) -> Sample {
        Sample { cause, frames: cause.as_str().to_owned(), device_busy: Some(busy), stands_for_ns }
    }

    #[test]
    fn waits_add_up_to_the_blocked_time() {
        let flush = |ns| sample(Cause::Flush, true, ns);
        let journal = |ns| sample(Cause::Journal, false, ns);
        let cases: [(&[Sample], u64, u64, u64, &str); 4] = [
            (&[], 0, 0, 70, "no sample, so nobody knows"),
            (&[flush(5)], 70, 0, 0, "one stands for all"),
            (
                &[flush(30), journal(10)],
                52,
                18,
                0,
                "each for its share; what rounding leaves is the last one's",
            ),
            (&[flush(100), journal(100)], 35, 35, 0, "never more than there is"),
        ];
        for (samples, flush_ns, journal_ns, unsampled_ns, why) in cases {
            let operation = SlowOperation::new(SystemTime::now(), record(100, 10, 20), samples, None);
            let of = |cause: Cause| operation.waits[cause];
            assert_eq!(
                (of(Cause::Flush), of(Cause::Journal), of(Cause::Unsampled)),
                (flush_ns, journal_ns, unsampled_ns),
                "{why}"
            );
            assert_eq!(operation.waits.iter().sum::<u64>(), 70, "{why}");
        }
    }

    #[test]
    fn exact_waits_replace_samples_and_leave_them_to_be_compared() {
        let exact = [(Cause::Flush, "a".to_owned(), 40), (Cause::Journal, "b".to_owned(), 20)];
        let samples = [sample(Cause::Lock, true, 5)];
        let operation = SlowOperation::new(SystemTime::now(), record(100, 10, 20), &samples, Some(&exact));
        let of = |cause: Cause| operation.waits[cause];
        assert_eq!((of(Cause::Flush), of(Cause::Journal), of(Cause::Unsampled)), (40, 20, 10));
        assert_eq!(operation.sampled.unwrap()[Cause::Lock], 70);
        assert_eq!(operation.device_busy_ns, 70, "whether the device was busy is known from samples only");
        let tight = SlowOperation::new(SystemTime::now(), record(50, 10, 20), &samples, Some(&exact));
        assert_eq!(tight.waits.iter().sum::<u64>(), 20, "the parts are no more than the whole");
    }
}
