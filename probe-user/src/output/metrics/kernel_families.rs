//! Families measured in the kernel: latencies, operations and their waits.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{MetricFamily, counter, gauge, histogram, seconds_counter};
use crate::analysis::{
    causes::Cause,
    disk_metric::{DiskMetric, PerMetric},
    latency::seconds,
    snapshot::MetricsSnapshot,
};

const WAL_FSYNC_DURATION: MetricFamily = MetricFamily::histogram(
    "wal_fsync_duration",
    "Duration of WAL syncs in the kernel, the counterpart of etcd_disk_wal_fsync_duration_seconds.",
)
.seconds();

const BACKEND_COMMIT_DURATION: MetricFamily = MetricFamily::histogram(
    "backend_commit_duration",
    "Duration of backend commits in the kernel, from the first write to the end of the second sync, \
     the counterpart of etcd_disk_backend_commit_duration_seconds.",
)
.seconds();

const WAL_ROTATION_DURATION: MetricFamily = MetricFamily::histogram(
    "wal_rotation_duration",
    "Duration of WAL rotations, from the truncation of the full segment to the sync of the directory, \
     including the wait for pre-allocation.",
)
.seconds();

const OPERATION_DURATION: MetricFamily =
    MetricFamily::histogram("operation_duration", "Duration of etcd's system calls on its files.").seconds();

const OPERATION_BYTES: MetricFamily =
    MetricFamily::counter("operation_bytes", "Bytes that etcd wrote to its files.");

const OPERATION_TIME: MetricFamily = MetricFamily::counter(
    "operation_time",
    "Time in etcd's system calls on its files, by state of the thread: on a CPU, in the run queue, \
     blocked.",
)
.seconds();

const WAIT: MetricFamily = MetricFamily::counter(
    "wait",
    "Time for which slow system calls were blocked, by cause; absent for causes that have not \
     occurred.",
)
.seconds();

const OPERATION_ERRORS: MetricFamily = MetricFamily::counter(
    "operation_errors",
    "Failed system calls of etcd on its files, by errno; absent until the first failure.",
);

const OPERATION_IN_FLIGHT: MetricFamily = MetricFamily::gauge(
    "operation_in_flight",
    "Age of the oldest operation that has not returned; 0 if there is none.",
)
.seconds();

impl MetricsSnapshot {
    pub(super) fn encode_latencies(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let counterparts =
            PerMetric { wal_fsync: WAL_FSYNC_DURATION, backend_commit: BACKEND_COMMIT_DURATION };
        for metric in DiskMetric::ALL {
            let mut family = counterparts[metric].begin(out)?;
            for member in &self.members {
                let latencies = &member.figures[metric].latencies;
                histogram(&mut family, &[("member", member.name.as_str())], latencies)?;
            }
        }
        let mut family = WAL_ROTATION_DURATION.begin(out)?;
        for member in &self.members {
            histogram(&mut family, &[("member", member.name.as_str())], &member.rotation)?;
        }
        Ok(())
    }

    pub(super) fn encode_operations(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = OPERATION_DURATION.begin(out)?;
        for (member, operation) in self.operations() {
            histogram(&mut family, &operation.labels(&member.name), &operation.latencies)?;
        }
        let mut family = OPERATION_BYTES.begin(out)?;
        for (member, operation) in self.operations().filter(|(_, operation)| operation.op.returns_bytes()) {
            counter(&mut family, &operation.labels(&member.name), operation.latencies.bytes)?;
        }
        let mut family = OPERATION_TIME.begin(out)?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            // Absent if the kernel does not account for it: a part of the time would be a guess.
            let Some(time) = &operation.time else { continue };
            let states = [
                ("on_cpu", time.on_cpu_ns),
                ("run_queue", time.run_queue_ns),
                ("blocked", time.blocked_ns()),
            ];
            for (state, ns) in states {
                seconds_counter(&mut family, &[member, file, op, ("state", state)], seconds(ns))?;
            }
        }
        let mut family = WAIT.begin(out)?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            for (cause, ns) in Cause::ALL.into_iter().zip(operation.waits.iter()).filter(|(_, ns)| **ns > 0) {
                seconds_counter(&mut family, &[member, file, op, ("cause", cause.as_str())], seconds(*ns))?;
            }
        }
        let mut family = OPERATION_ERRORS.begin(out)?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            for (errno, count) in &operation.errors {
                counter(&mut family, &[member, file, op, ("errno", errno)], *count)?;
            }
        }
        let mut family = OPERATION_IN_FLIGHT.begin(out)?;
        for member in &self.members {
            for (file, age_s) in &member.in_flight_s {
                gauge(&mut family, &[("member", member.name.as_str()), ("file", file)], *age_s)?;
            }
        }
        Ok(())
    }
}
