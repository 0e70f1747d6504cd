//! Readings of the kernel's histograms at one instant, their quantiles and differences.

use probe_ebpf::histogram::{SLOTS, SlowSums, edge_seconds, slot};

/// Bounds of the exported histograms in nanoseconds: etcd's fourteen (1 ms to 8.192 s), the doublings below
/// and above them, and the limits of etcd's guidance (10 and 25 ms) and 100 ms. All are edges of the kernel's
/// slots.
pub const BOUNDS_NS: [u64; 27] = [
    7_812,
    15_625,
    31_250,
    62_500,
    125_000,
    250_000,
    500_000,
    1_000_000,
    2_000_000,
    4_000_000,
    8_000_000,
    10_000_000,
    16_000_000,
    25_000_000,
    32_000_000,
    64_000_000,
    100_000_000,
    128_000_000,
    256_000_000,
    512_000_000,
    1_024_000_000,
    2_048_000_000,
    4_096_000_000,
    8_192_000_000,
    16_384_000_000,
    32_768_000_000,
    65_536_000_000,
];

/// One series at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latencies {
    slots: Box<[u64; SLOTS]>,
    pub sum_ns: u64,
    /// The longest latency since the start, also in the difference of two readings.
    pub max_ns: u64,
    /// Bytes written.
    pub bytes: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { slots: Box::new([0; SLOTS]), sum_ns: 0, max_ns: 0, bytes: 0 }
    }
}

impl Latencies {
    /// Creates a reading from the kernel's values.
    pub fn new(slots: Box<[u64; SLOTS]>, sum_ns: u64, max_ns: u64, bytes: u64) -> Self {
        Self { slots, sum_ns, max_ns, bytes }
    }

    /// Adds one latency, as the kernel does.
    pub fn record(&mut self, latency_ns: u64) {
        self.slots[slot(latency_ns)] += 1;
        self.sum_ns += latency_ns;
        self.max_ns = self.max_ns.max(latency_ns);
    }

    /// Returns the number of events.
    pub fn count(&self) -> u64 {
        self.slots.iter().sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        seconds(self.sum_ns)
    }

    /// Returns the number of events up to each of these bounds, which must ascend and be edges of slots.
    pub fn at_most<const N: usize>(&self, bounds_ns: &[u64; N]) -> [u64; N] {
        let mut counted = 0;
        let mut next = 0;
        bounds_ns.map(|bound_ns| {
            let end = slot(bound_ns) + 1;
            counted += self.slots[next..end].iter().sum::<u64>();
            next = end;
            counted
        })
    }

    /// Returns the latency in seconds that a share `q` of the events does not exceed; none without events.
    ///
    /// It is the middle of a slot: at most 1/64 from the exact value (1.6 %), and never above the longest.
    /// Below 2 µs all slots have one width, 61 ns.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count is a count"
        )]
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut counted = 0;
        let slot = self.slots.iter().position(|n| {
            counted += n;
            counted >= rank
        })?;
        let lower_s = slot.checked_sub(1).map_or(0.0, edge_seconds);
        Some(f64::midpoint(lower_s, edge_seconds(slot)).min(seconds(self.max_ns)))
    }

    /// Returns the longest of these events in seconds: exact if it is the longest since the start, otherwise
    /// to 1/32.
    pub fn max_seconds(&self) -> Option<f64> {
        let last = self.slots.iter().rposition(|n| *n > 0)?;
        Some(if last == slot(self.max_ns) { seconds(self.max_ns) } else { edge_seconds(last) })
    }

    /// Adds the events of another series.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in self.slots.iter_mut().zip(&*other.slots) {
            *to += from;
        }
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
        self.bytes += other.bytes;
    }

    /// Returns the events since an earlier reading of the same series.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut window = Self { max_ns: self.max_ns, ..Self::default() };
        window.grow(&self.gain_since(earlier));
        window
    }

    /// Returns the events since an earlier reading in compact form.
    pub fn gain_since(&self, earlier: &Self) -> Gain {
        let slots = (0..).zip(self.slots.iter().zip(&*earlier.slots));
        let grown = slots.filter(|(_, (now, then))| now > then);
        Gain {
            slots: grown.map(|(slot, (now, then))| (slot, now - then)).collect(),
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }

    /// Adds the gain of a series; the caller sets `max_ns`.
    pub fn grow(&mut self, gain: &Gain) {
        for (slot, count) in &gain.slots {
            self.slots[usize::from(*slot)] += count;
        }
        self.sum_ns += gain.sum_ns;
        self.bytes += gain.bytes;
    }

    /// Subtracts a gain that was added before.
    pub fn shrink(&mut self, gain: &Gain) {
        for (slot, count) in &gain.slots {
            self.slots[usize::from(*slot)] -= count;
        }
        self.sum_ns -= gain.sum_ns;
        self.bytes -= gain.bytes;
    }
}

/// The gain of a series between two readings: only the slots that changed, which are few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gain {
    slots: Box<[(u16, u64)]>,
    sum_ns: u64,
    bytes: u64,
}

impl Gain {
    /// Returns the sum of two gains.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = Latencies::default();
        both.grow(self);
        both.grow(other);
        both.gain_since(&Latencies::default())
    }
}

/// A series with the exported bounds only, a thirtieth of the size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The number of events up to each of [`BOUNDS_NS`].
    pub at_most: [u64; BOUNDS_NS.len()],
    pub count: u64,
    pub sum_ns: u64,
    pub bytes: u64,
}

impl From<&Latencies> for Exported {
    fn from(all: &Latencies) -> Self {
        Self { at_most: all.at_most(&BOUNDS_NS), count: all.count(), sum_ns: all.sum_ns, bytes: all.bytes }
    }
}

/// How the time of one series was spent; the rest of the sum was spent blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeSpent {
    pub sum_ns: u64,
    pub on_cpu_ns: u64,
    pub run_queue_ns: u64,
    /// The same for the events that took longer than the threshold.
    pub slow: SlowSums,
}

impl TimeSpent {
    /// Returns the blocked time: not on a CPU, and not waiting for one.
    pub fn blocked_ns(&self) -> u64 {
        self.sum_ns.saturating_sub(self.on_cpu_ns).saturating_sub(self.run_queue_ns)
    }

    /// Adds another series, or another incarnation's.
    pub fn add(&mut self, other: &Self) {
        self.sum_ns += other.sum_ns;
        self.on_cpu_ns += other.on_cpu_ns;
        self.run_queue_ns += other.run_queue_ns;
        self.slow.events += other.slow.events;
        self.slow.sum_ns += other.slow.sum_ns;
        self.slow.on_cpu_ns += other.slow.on_cpu_ns;
        self.slow.run_queue_ns += other.slow.run_queue_ns;
    }

    /// Returns the difference to an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let (now, then) = (&self.slow, &earlier.slow);
        Self {
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
            on_cpu_ns: self.on_cpu_ns.saturating_sub(earlier.on_cpu_ns),
            run_queue_ns: self.run_queue_ns.saturating_sub(earlier.run_queue_ns),
            slow: SlowSums {
                events: now.events.saturating_sub(then.events),
                sum_ns: now.sum_ns.saturating_sub(then.sum_ns),
                on_cpu_ns: now.on_cpu_ns.saturating_sub(then.on_cpu_ns),
                run_queue_ns: now.run_queue_ns.saturating_sub(then.run_queue_ns),
            },
        }
    }
}

/// Returns nanoseconds as seconds.
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(latencies_ns: &[u64]) -> Latencies {
        let mut all = Latencies::default();
        for latency_ns in latencies_ns {
            all.record(*latency_ns);
        }
        all
    }

    #[test]
    fn bounds_are_edges_of_slots() {
        for bound_ns in BOUNDS_NS {
            // 7,812.5 ns is also an edge; no whole number of nanoseconds lies between.
            let next_ns = bound_ns + 1;
            assert_eq!(slot(bound_ns) + 1, slot(next_ns).max(slot(bound_ns) + 1), "{bound_ns} ns");
            assert!(slot(next_ns) > slot(bound_ns) || bound_ns == 65_536_000_000, "{bound_ns} ns");
        }
    }

    #[test]
    fn counts_at_bounds_are_inclusive_and_cumulative() {
        let all = of(&[500_000, 1_000_000, 1_000_001, 2_000_000, 9_000_000_000]);
        assert_eq!(all.at_most(&[1_000_000, 2_000_000, 8_192_000_000]), [2, 4, 4]);
        assert_eq!(all.count(), 5);
        assert_eq!(all.max_ns, 9_000_000_000);
    }

    #[test]
    fn quantiles_are_within_a_sixty_fourth() {
        let thousand: Vec<u64> = (1..=1000).map(|n| n * 100_000).collect();
        let all = of(&thousand);
        for (q, truth) in [(0.5, 0.05), (0.99, 0.099), (0.999, 0.0999), (1.0, 0.1)] {
            let got = all.quantile(q).expect("there are events");
            assert!((got - truth).abs() <= truth / 64.0, "p{q}: {got} for {truth}");
        }
        assert_eq!(Latencies::default().quantile(0.5), None, "no events, no quantile");
        assert_eq!(of(&[123_456]).quantile(0.99), Some(0.000_123_456), "never above the longest");
    }

    #[test]
    fn a_window_is_the_difference_of_two_readings() {
        let earlier = of(&[1_000_000, 5_000_000]);
        let mut later = earlier.clone();
        later.record(3_000_000);
        let mut window = later.since(&earlier);
        assert_eq!((window.count(), window.sum_ns), (1, 3_000_000));
        let max = window.max_seconds().expect("there is one event");
        assert!(
            (0.003..0.003 * 33.0 / 32.0).contains(&max),
            "{max}: the longest of the window, not since the start"
        );
        window.shrink(&later.gain_since(&earlier));
        assert_eq!(window, Latencies { max_ns: later.max_ns, ..Latencies::default() }, "empty again");
    }

    #[test]
    fn incarnations_add_up() {
        let mut all = of(&[1_000_000]);
        all.add(&of(&[2_000_000, 4_000_000]));
        assert_eq!((all.count(), all.sum_ns, all.max_ns), (3, 7_000_000, 4_000_000));
    }
}
