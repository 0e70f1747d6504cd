//! One slow operation and its waits: pure, from the kernel's record and the samples taken while it ran.

use std::{collections::BTreeMap, time::SystemTime};

use probe_ebpf::{
    io::OwnerKey,
    series::{OPERATIONS, Op, Role},
    state::SlowEvent,
};

use crate::analysis::causes::{Cause, PerCause};

/// Nanoseconds by [`Cause`].
pub type WaitTimes = PerCause<u64>;

/// One sampled stack of a thread, and the time it represents: since the last sample, or since the operation
/// started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackSample {
    pub cause: Cause,
    /// The innermost functions, for people.
    pub frames: String,
    /// Whether any request was in flight on the devices under the file; none if they are not traced.
    pub device_busy: Option<bool>,
    pub stands_for_ns: u64,
}

/// An operation that took longer than the threshold.
#[derive(Clone, Debug)]
pub struct SlowOperation {
    /// When it ended.
    pub at: SystemTime,
    pub record: SlowEvent,
    /// The blocked time by cause. The values add up to the whole blocked time.
    pub waits: WaitTimes,
    /// The same from samples; only if `waits` are exact.
    pub sampled: Option<WaitTimes>,
    /// The blocked time, by samples: without a request in flight at the device, and with at least one.
    pub device_idle_ns: u64,
    pub device_busy_ns: u64,
    /// Where it was blocked, and for how long.
    pub frames: BTreeMap<(Cause, String), u64>,
    /// Other users of the device while the operation ran, the busiest first.
    pub neighbours: Vec<DeviceActivity>,
}

/// The activity of one I/O owner on a device while an operation was slow, or up to a second before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceActivity {
    pub key: OwnerKey,
    pub comm: [u64; 2],
    pub requests: u64,
    pub flushes: u64,
    pub syncs: u64,
    pub bytes: u64,
}

impl SlowOperation {
    /// Combines the kernel's record with the samples. `exact` are the waits, if recorded at every context
    /// switch.
    pub fn new(
        at: SystemTime,
        record: SlowEvent,
        samples: &[StackSample],
        exact: Option<&[(Cause, String, u64)]>,
    ) -> Self {
        let blocked_ns = blocked_ns(&record);
        let mut operation = Self {
            at,
            record,
            waits: WaitTimes::default(),
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

    /// Distributes the blocked time of the thread, which is known exactly, over the samples.
    fn take_samples(&mut self, blocked_ns: u64, samples: &[StackSample]) {
        let all_ns: u64 = samples.iter().map(|sample| sample.stands_for_ns).sum();
        let mut left_ns = blocked_ns;
        for sample in samples {
            let share_ns = apportion(blocked_ns, sample.stands_for_ns, all_ns).min(left_ns);
            left_ns -= share_ns;
            self.waits[sample.cause] += share_ns;
            *self.frames.entry((sample.cause, sample.frames.clone())).or_default() += share_ns;
            match sample.device_busy {
                Some(true) => self.device_busy_ns += share_ns,
                Some(false) => self.device_idle_ns += share_ns,
                None => {}
            }
        }
        // Without samples this is the whole time, otherwise the rest that rounding leaves.
        let rest = samples.last().map_or(Cause::Unsampled, |sample| sample.cause);
        self.waits[rest] += left_ns;
    }

    fn take_exact(&mut self, blocked_ns: u64, exact: &[(Cause, String, u64)]) {
        self.waits = WaitTimes::default();
        self.frames.clear();
        let all_ns: u64 = exact.iter().map(|(.., ns)| ns).sum();
        // The time on a CPU is known only to a tick. If it is too large, the waits are reduced so that the
        // parts do not exceed the whole.
        let whole_ns = all_ns.max(blocked_ns);
        let mut left_ns = blocked_ns;
        for (cause, frames, ns) in exact {
            let share_ns = apportion(blocked_ns, *ns, whole_ns).min(left_ns);
            left_ns -= share_ns;
            self.waits[*cause] += share_ns;
            *self.frames.entry((*cause, frames.clone())).or_default() += share_ns;
        }
        self.waits[Cause::Unsampled] += left_ns;
    }

    /// Returns the role of its file and the system call.
    pub fn operation(&self) -> Option<(Role, Op)> {
        OPERATIONS.get(self.record.series as usize).copied()
    }
}

/// A slow operation and the member that it belongs to.
#[derive(Clone, Debug)]
pub struct LoggedOperation {
    /// Counts up from 0 without a gap.
    pub sequence: u64,
    pub member: String,
    pub operation: SlowOperation,
}

/// Returns the time for which the thread was blocked: it did not run, and did not wait for a CPU.
pub fn blocked_ns(record: &SlowEvent) -> u64 {
    let split = record.split;
    record.latency_ns.saturating_sub(split.on_cpu_ns).saturating_sub(split.run_queue_ns)
}

/// Returns the name of a process. The kernel's own threads count as one, since it is arbitrary which of them
/// runs a job.
pub fn comm(tgid: u32, words: [u64; 2]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0).collect();
    let name = String::from_utf8_lossy(&bytes);
    // A process chooses its own name: control characters must not reach a terminal.
    let name: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if tgid == 0 { format!("kernel ({name})") } else { name }
}

/// Returns `part / whole` of an amount, rounded down.
fn apportion(amount: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use probe_ebpf::state::Split;

    use std::time::UNIX_EPOCH;

    use super::*;

    fn record(latency_ns: u64, on_cpu_ns: u64, run_queue_ns: u64) -> SlowEvent {
        SlowEvent { latency_ns, split: Split { on_cpu_ns, run_queue_ns }, series: 1, ..SlowEvent::NONE }
    }

    fn sample(cause: Cause, busy: bool, stands_for_ns: u64) -> StackSample {
        StackSample { cause, frames: cause.as_str().to_owned(), device_busy: Some(busy), stands_for_ns }
    }

    #[test]
    fn waits_add_up_to_the_blocked_time() {
        let flush = |ns| sample(Cause::Flush, true, ns);
        let journal = |ns| sample(Cause::Journal, false, ns);
        let cases: [(&[StackSample], u64, u64, u64, &str); 4] = [
            (&[], 0, 0, 70, "no sample, so the cause is unknown"),
            (&[flush(5)], 70, 0, 0, "one represents the whole time"),
            (
                &[flush(30), journal(10)],
                52,
                18,
                0,
                "each represents its share; the rest from rounding goes to the last one",
            ),
            (&[flush(100), journal(100)], 35, 35, 0, "never more than the blocked time"),
        ];
        for (samples, flush_ns, journal_ns, unsampled_ns, why) in cases {
            let operation = SlowOperation::new(UNIX_EPOCH, record(100, 10, 20), samples, None);
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
    fn exact_waits_replace_samples_and_keep_them_for_comparison() {
        let exact = [(Cause::Flush, "a".to_owned(), 40), (Cause::Journal, "b".to_owned(), 20)];
        let samples = [sample(Cause::Lock, true, 5)];
        let operation = SlowOperation::new(UNIX_EPOCH, record(100, 10, 20), &samples, Some(&exact));
        let of = |cause: Cause| operation.waits[cause];
        assert_eq!((of(Cause::Flush), of(Cause::Journal), of(Cause::Unsampled)), (40, 20, 10));
        assert_eq!(operation.sampled.unwrap()[Cause::Lock], 70);
        assert_eq!(operation.device_busy_ns, 70, "only samples show whether the device was busy");
        let tight = SlowOperation::new(UNIX_EPOCH, record(50, 10, 20), &samples, Some(&exact));
        assert_eq!(tight.waits.iter().sum::<u64>(), 20, "the parts do not exceed the whole");
    }
}
