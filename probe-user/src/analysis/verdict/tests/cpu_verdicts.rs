//! Verdicts about a lack of CPU time.

use super::*;

#[test]
fn cpu_starvation_is_not_a_slow_disk() {
    let fast = latencies(MS, 500);
    let slow = latencies(40 * MS, 500);
    check(&[
        (
            &fast,
            |e| (overhead(e, 0.006), throttled(e)).0,
            Verdict::CpuStarved,
            "a quota since Linux 6.18: fast in the kernel, slow in etcd",
        ),
        (
            &slow,
            |e| (queued(e), throttled(e)).0,
            Verdict::CpuStarved,
            "a quota up to 6.17: within the call, as run queue",
        ),
        (&slow, queued, Verdict::CpuStarved, "busy loops: no quota, and the task's own statistics show it"),
        (
            &fast,
            |e| {
                overhead(e, 0.006);
                e.cpu.run_delay_s = Some(5.0);
            },
            Verdict::CpuStarved,
            "threads wait in run queues outside the call",
        ),
        (
            &fast,
            |e| {
                overhead(e, 0.006);
                (e.cpu.quota_cpus, e.cpu.throttled_periods) = (Some(0.5), Some(100));
            },
            Verdict::CpuStarved,
            "a hundred periods, although the kernel does not report for how long",
        ),
        (&fast, |e| overhead(e, 0.006), Verdict::EtcdOverhead, "no evidence that a CPU was lacking"),
        (
            &fast,
            |e| {
                overhead(e, 0.006);
                (e.cpu.throttled_s, e.cpu.run_delay_s) = (Some(0.5), Some(0.5));
            },
            Verdict::EtcdOverhead,
            "less than a twentieth of the window",
        ),
        (
            &fast,
            |e| e.figures.wal_fsync.etcd_p99_above_s = Some(0.016),
            Verdict::EtcdOverhead,
            "slow in etcd only; by how much is unknown so far",
        ),
        (
            &fast,
            |e| e.figures.wal_fsync.etcd_p99_above_s = Some(0.008),
            Verdict::Healthy,
            "8 ms is not above 10 ms",
        ),
        (
            &slow,
            |e| (slow_device(e), overhead(e, 0.000_2)).0,
            Verdict::DeviceSlow,
            "ordinary overhead next to a slow device",
        ),
    ]);
}
