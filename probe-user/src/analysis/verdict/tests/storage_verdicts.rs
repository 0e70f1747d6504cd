//! Verdicts about the device, its users and the file system.

use super::*;

#[test]
fn the_behaviour_of_the_device_names_the_verdict() {
    let slow = latencies(40 * MS, 500);
    check(&[
        (&slow, slow_device, Verdict::DeviceSlow, "requests take as long as the waits explain"),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::Flush, 12.0), (Cause::DataWriteback, 2.0)]);
                e.device = Some(device(0.001, 0.030));
            },
            Verdict::FlushSlow,
            "writes are fast and flushes are slow",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::Journal, 15.0), (Cause::DataWriteback, 2.0)]);
                e.device = Some(device(0.001, 0.030));
            },
            Verdict::FlushSlow,
            "the journal's thread sends the flush, and its time explains the wait",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::DataWriteback, 15.0), (Cause::Flush, 1.0)]);
                e.device = Some(device(0.006, 0.030));
            },
            Verdict::DeviceSlow,
            "flushes are slow, but etcd does not wait for them",
        ),
        (
            &slow,
            |e| {
                slow_device(e);
                let device = e.device.as_mut().unwrap();
                for class in &mut device.classes {
                    (class.queue_s, class.device_s) = (class.total_s * 0.8, class.total_s * 0.2);
                }
            },
            Verdict::QueueSaturated,
            "requests wait longer than they take",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::RequestQueue, 15.0), (Cause::Flush, 1.0)]);
                e.device = Some(device(0.013, 0.014));
            },
            Verdict::QueueSaturated,
            "no request was free",
        ),
        (
            &slow,
            |e| {
                slow_device(e);
                let device = e.device.as_mut().unwrap();
                for class in &mut device.classes {
                    (class.queue_s, class.device_s) = (class.total_s, 0.0);
                }
            },
            Verdict::DeviceSlow,
            "the device mapper has no requests of its own: an unknown split is not a queue",
        ),
        (
            &slow,
            |e| {
                slow_device(e);
                e.slow.wal_fsync = SlowTime::default();
                e.split.wal_fsync = TimeSplit { total_s: 20.0, on_cpu_s: Some(0.1), run_queue_s: Some(0.1) };
            },
            Verdict::DeviceSlow,
            "no operation was slow by itself, but all of them together were",
        ),
    ]);
}

#[test]
fn neighbours_are_named_if_they_cause_the_load() {
    let slow = latencies(40 * MS, 500);
    check(&[
        (&slow, |e| others(e, 0.9, 9000), Verdict::NoisyNeighbour, "nine tenths are a backup's"),
        (&slow, |e| others(e, 0.4, 300), Verdict::DeviceSlow, "less than half is not the reason"),
        (
            &slow,
            |e| {
                slow_device(e);
                e.device.as_mut().unwrap().classes[Class::Flush as usize].other_requests = 4000;
            },
            Verdict::NoisyNeighbour,
            "flushes alone can be the load, with an unknown owner",
        ),
        (
            &slow,
            |e| {
                others(e, 0.9, 9000);
                let device = e.device.as_mut().unwrap();
                for class in &mut device.classes {
                    class.total_s /= 100.0;
                }
            },
            Verdict::DeviceSlow,
            "nine tenths of a negligible load are no disturbance",
        ),
        (
            &slow,
            |e| {
                others(e, 0.9, 9000);
                for class in &mut e.device.as_mut().unwrap().classes {
                    class.queue_s = class.device_s * 3.0;
                }
            },
            Verdict::NoisyNeighbour,
            "the process that fills the queue precedes the queue",
        ),
    ]);
}

#[test]
fn waits_above_the_device_are_not_a_slow_device() {
    let slow = latencies(40 * MS, 500);
    check(&[
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::DataWriteback, 16.0)]);
                idle(e);
                e.device = Some(device(0.001, 0.001));
                e.io_limits = vec!["io.max of etcd.slice allows 60 writes/s".to_owned()];
            },
            Verdict::IoThrottled,
            "the device was idle, and a limit is known",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::DataWriteback, 16.0)]);
                idle(e);
                e.device = Some(device(0.001, 0.001));
            },
            Verdict::IoThrottled,
            "data waits for an idle device, but no limit was found",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::DataWriteback, 16.0)]);
                e.device = Some(device(0.001, 0.001));
                e.io_limits = vec!["io.max of etcd.slice allows 60 writes/s".to_owned()];
            },
            Verdict::IoThrottled,
            "other processes keep the device busy, and their requests are fast",
        ),
        (
            &slow,
            |e| {
                slow_device(e);
                e.io_limits = vec!["io.max of etcd.slice allows 1 GiB/s".to_owned()];
            },
            Verdict::DeviceSlow,
            "a limit exists but is not reached: the requests themselves are slow",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::Journal, 10.0), (Cause::Lock, 6.0)]);
                idle(e);
                e.device = Some(device(0.001, 0.001));
            },
            Verdict::JournalContention,
            "locks and the journal above an idle device",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::Journal, 16.0)]);
                e.device = Some(device(0.001, 0.002));
            },
            Verdict::JournalContention,
            "the wait for the journal takes 40 ms, a request 1.5 ms",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::Frozen, 19.0)]);
                e.device = Some(device(0.001, 0.001));
            },
            Verdict::IoThrottled,
            "a freeze that has ended throttled the I/O",
        ),
        (
            &slow,
            |e| {
                blocked(e, &[(Cause::Other, 16.0)]);
                idle(e);
                e.device = Some(device(0.001, 0.001));
            },
            Verdict::JournalContention,
            "memory shortage: within the kernel, above the device",
        ),
    ]);
}

#[test]
fn without_a_device_the_stacks_decide() {
    let slow = latencies(40 * MS, 500);
    check(&[
        (&slow, |e| blocked(e, &[(Cause::Journal, 16.0)]), Verdict::JournalContention, "the journal"),
        (&slow, |e| blocked(e, &[(Cause::Flush, 16.0)]), Verdict::FlushSlow, "flushes"),
        (&slow, |e| blocked(e, &[(Cause::RequestQueue, 16.0)]), Verdict::QueueSaturated, "requests"),
        (&slow, |e| blocked(e, &[(Cause::DataWriteback, 16.0)]), Verdict::DeviceSlow, "data"),
        (&slow, |e| blocked(e, &[]), Verdict::DeviceSlow, "ZFS without stacks: by elimination"),
        (&slow, |_| {}, Verdict::Blind, "blocked time cannot be distinguished"),
    ]);
}
