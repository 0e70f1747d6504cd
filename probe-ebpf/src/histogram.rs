//! Log-linear histograms whose edges include all bucket bounds of etcd's histograms.

/// One millisecond in units of 61.035 ns, so that 1 ms × 2^k is always the edge of a slot.
///
/// All 14 bounds of `etcd_disk_wal_fsync_duration_seconds` are therefore edges, and counts compare one to
/// one.
pub const UNITS_PER_MS: u64 = 1 << 14;

/// Slots per doubling: a quantile, the middle of a slot, is off by 1/64 at most.
pub const STEPS: u64 = 32;

/// Number of slots. The last one ends at 65.536 s; it also holds all longer latencies.
pub const SLOTS: usize = 832;

/// [`slot`] treats longer latencies as this long (78 hours), so that its product fits 64 bits.
const LONGEST_NS: u64 = 1 << 48;

const NS_PER_MS: u64 = 1_000_000;

/// One series. The kernel programs add atomically from every CPU; the daemon reads.
///
/// The number of ended events is the sum of the slots, so a reader cannot get a count that disagrees with
/// them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Histogram {
    pub slots: [u64; SLOTS],
    /// Exact total, not estimated from the edges.
    pub sum_ns: u64,
    /// The longest since the target was first measured. etcd's locks allow one operation of a series at a
    /// time, so a comparison and a plain store suffice.
    pub max_ns: u64,
    /// Bytes that the ended operations wrote.
    pub bytes: u64,
    /// Events begun; counted only in the series that are reconciled with etcd, 0 in all others.
    pub entered: u64,
    /// Part of the sum that the threads spent on a CPU; a lower bound, see [`crate::state::Split`]. 0 for
    /// events that span more than one system call.
    pub on_cpu_ns: u64,
    /// Part of the sum that the threads spent runnable, waiting for a CPU.
    pub run_queue_ns: u64,
    /// The same sums over the events that took longer than the threshold.
    pub slow: SlowSums,
}

/// Sums over the events that took longer than the threshold.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowSums {
    pub events: u64,
    pub sum_ns: u64,
    pub on_cpu_ns: u64,
    pub run_queue_ns: u64,
}

const _: () = assert!(size_of::<Histogram>() == 8 * (SLOTS + 10), "no padding allowed");

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, `Copy` and only `u64` fields: no padding, and every bit pattern is valid.
unsafe impl aya::Pod for Histogram {}

/// Returns the slot of a latency: linear below 2 µs, 32 steps per doubling above.
///
/// Edges are inclusive, as Prometheus defines `le`: exactly 1 ms counts under `le="0.001"`.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a slot is below 832, and pointers have at least 32 bits"
)]
pub const fn slot(latency_ns: u64) -> usize {
    let latency_ns = if latency_ns > LONGEST_NS { LONGEST_NS } else { latency_ns };
    let units = (latency_ns * UNITS_PER_MS).div_ceil(NS_PER_MS);
    let below = units.saturating_sub(1);
    let slot = if below < STEPS {
        below
    } else {
        let shift = (below.ilog2() - STEPS.ilog2()) as u64;
        (shift + 1) * STEPS + (below >> shift) - STEPS
    };
    if slot < SLOTS as u64 { slot as usize } else { SLOTS - 1 }
}

/// Returns the upper edge of a slot, inclusive, in units of 1 ms / 2^14.
///
/// The last slot has an edge for the calculation of quantiles, although it also holds longer latencies.
pub const fn edge_units(slot: usize) -> u64 {
    let slot = slot as u64;
    if slot < STEPS {
        slot + 1
    } else {
        let shift = slot / STEPS - 1;
        (slot % STEPS + STEPS + 1) << shift
    }
}

/// Returns the upper edge of a slot in seconds.
pub fn edge_seconds(slot: usize) -> f64 {
    edge_units(slot) as f64 / UNITS_PER_MS as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_edges_are_inclusive() {
        let cases = [
            (0, 0, "nothing is below the first slot"),
            (1, 0, "the shortest latency is in the first slot"),
            (61, 0, "61 ns is below one unit"),
            (62, 1, "62 ns is above one unit"),
            (1_953, 31, "the last linear edge belongs to its own slot"),
            (1_954, 32, "one past an edge belongs to the next"),
            (65_536_000_000, SLOTS - 1, "the last edge belongs to the last slot"),
            (u64::MAX, SLOTS - 1, "a broken clock stays in range"),
        ];
        for (latency_ns, expected, why) in cases {
            assert_eq!(slot(latency_ns), expected, "{latency_ns} ns: {why}");
        }
    }

    #[test]
    fn every_common_bucket_bound_closes_a_slot() {
        let etcd = (0..14).map(|k| 1_000_000 << k);
        let guidance = [10_000_000, 25_000_000, 100_000_000];
        for edge_ns in etcd.chain(guidance) {
            assert_eq!(slot(edge_ns) + 1, slot(edge_ns + 1), "{edge_ns} ns");
            let units = edge_units(slot(edge_ns));
            assert_eq!(units * NS_PER_MS, edge_ns * UNITS_PER_MS, "{edge_ns} ns");
        }
    }

    #[test]
    fn edges_enclose_the_latencies_of_their_slot() {
        for index in 1..SLOTS {
            // The largest whole nanosecond within an edge, and the next one.
            let within_ns = edge_units(index - 1) * NS_PER_MS / UNITS_PER_MS;
            assert_eq!(slot(within_ns), index - 1, "{within_ns} ns ends slot {}", index - 1);
            assert_eq!(slot(within_ns + 1), index, "{} ns begins slot {index}", within_ns + 1);
        }
    }

    #[test]
    fn a_slot_is_never_wider_than_a_thirty_second_of_its_lower_edge() {
        for index in 32..SLOTS {
            let (lower, upper) = (edge_units(index - 1), edge_units(index));
            assert!((upper - lower) * STEPS <= lower, "slot {index}: {lower} to {upper}");
        }
    }
}
