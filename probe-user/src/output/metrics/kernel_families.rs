//! What the kernel measured: figures, operations, what they waited for.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{counter, gauge, histogram, seconds_counter};
use crate::analysis::snapshot::Snapshot;
use crate::{
    analysis::disk_metric::DiskMetric,
    analysis::{causes::Cause, latency::seconds},
};

impl Snapshot {
    pub(super) fn encode_latencies(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let twins = [
            (
                "wal_fsync_duration",
                "Duration of WAL syncs in the kernel, the counterpart of etcd_disk_wal_fsync_duration_seconds.",
            ),
            (
                "backend_commit_duration",
                "Duration of backend commits in the kernel, from the first write to the end of the second sync, the counterpart \
                 of etcd_disk_backend_commit_duration_seconds.",
            ),
        ];
        for (metric, (name, help)) in DiskMetric::ALL.into_iter().zip(twins) {
            let mut family =
                out.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
            for member in &self.members {
                histogram(
                    &mut family,
                    &[("member", member.name.as_str())],
                    &member.figures[metric].latencies,
                )?;
            }
        }
        let mut family = out.encode_descriptor(
            "wal_rotation_duration",
            "Duration of WAL rotations, from the truncation of the full segment to the sync of the directory, including the \
             wait for pre-allocation.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for member in &self.members {
            histogram(&mut family, &[("member", member.name.as_str())], &member.rotation)?;
        }
        Ok(())
    }

    pub(super) fn encode_operations(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = out.encode_descriptor(
            "operation_duration",
            "Duration of etcd's system calls on its files.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for (member, operation) in self.operations() {
            histogram(&mut family, &operation.labels(&member.name), &operation.latencies)?;
        }
        let mut family = out.encode_descriptor(
            "operation_bytes",
            "Bytes that etcd wrote to its files.",
            None,
            MetricType::Counter,
        )?;
        for (member, operation) in self.operations().filter(|(_, operation)| operation.op.returns_bytes()) {
            counter(&mut family, &operation.labels(&member.name), operation.latencies.bytes)?;
        }
        let mut family = out.encode_descriptor(
            "operation_time",
            "Time in etcd's system calls on its files, by state of the thread: on a CPU, in the run queue, blocked.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            // Where the kernel keeps no account, nothing is said: a part would be a guess.
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
        let mut family = out.encode_descriptor(
            "wait",
            "Time for which slow system calls were blocked, by cause; absent for causes that have not occurred.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            for (cause, ns) in Cause::ALL.into_iter().zip(operation.waits.iter()).filter(|(_, ns)| **ns > 0) {
                seconds_counter(&mut family, &[member, file, op, ("cause", cause.as_str())], seconds(*ns))?;
            }
        }
        let mut family = out.encode_descriptor(
            "operation_errors",
            "Failed system calls of etcd on its files, by errno; absent until the first failure.",
            None,
            MetricType::Counter,
        )?;
        for (member, operation) in self.operations() {
            let [member, file, op] = operation.labels(&member.name);
            for (errno, count) in &operation.errors {
                counter(&mut family, &[member, file, op, ("errno", errno)], *count)?;
            }
        }
        let mut family = out.encode_descriptor(
            "operation_in_flight",
            "Age of the oldest operation that has not returned; 0 if there is none.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for member in &self.members {
            for (file, age_s) in &member.in_flight_s {
                gauge(&mut family, &[("member", member.name.as_str()), ("file", file)], *age_s)?;
            }
        }
        Ok(())
    }
}
