//! What to do next, by verdict: what a person can do at a shell, the cheapest first.

use super::{Evidence, Verdict, evidence::Class};

/// Returns what to do about a verdict.
pub fn next(verdict: Verdict, evidence: &Evidence) -> Vec<String> {
    let device = evidence.device.as_ref();
    let name = device.map_or("the device", |device| device.name.as_str());
    let heaviest = evidence.neighbours.first();
    let lines: Vec<String> = match verdict {
        Verdict::Healthy => vec![],
        Verdict::Stalled => vec![
            "look at the kernel's log for resets and timeouts of the device: dmesg --level err,warn".into(),
            "if the file system is frozen, thaw it: fsfreeze --unfreeze MOUNTPOINT".into(),
        ],
        Verdict::DeviceSlow => {
            let volume = device.and_then(|device| device.cloud).map(|cloud| {
                format!("compare the load with the volume's limits of IOPS and throughput at {cloud}, and raise them")
            });
            let health = format!("check the health of {name}: smartctl -a, its firmware, its RAID controller's cache");
            let faster = "move etcd's data to a faster device: a p99 of 10 ms takes an SSD with a safe write cache";
            volume.into_iter().chain([health, faster.into()]).collect()
        }
        Verdict::FlushSlow => {
            let cache = format!("compare the write cache of {name} with the model's: cat /sys/block/{name}/queue/write_cache");
            vec![
                cache,
                "use a device with power-loss protection, which answers a flush at once".into(),
                "on a virtual machine, see how the host caches the disk (writethrough and directsync flush each write)".into(),
            ]
        }
        Verdict::QueueSaturated => vec![
            format!("see what fills the queue of {name}: iostat -x 1 (aqu-sz), and the neighbours above"),
            "give etcd a device of its own, or limit those who do not need theirs (io.max, io.weight)".into(),
        ],
        Verdict::NoisyNeighbour => {
            let who = heaviest.map_or("the others", |neighbour| neighbour.owner.as_str());
            let mut lines = vec![
                format!("move {who} to another disk, or limit it with io.max of its cgroup"),
                "put etcd's WAL on a device of its own: --wal-dir".into(),
            ];
            let discards = device.map_or(0, |device| device.class(Class::Discard).requests);
            if discards > 0 {
                lines.push(format!("{discards} discards were sent: mount without `discard`, run fstrim at quiet times"));
            }
            lines
        }
        Verdict::JournalContention => vec![
            "move what else writes to this file system to another one; its journal is shared by all".into(),
            "put etcd's WAL on a file system of its own: --wal-dir".into(),
        ],
        Verdict::IoThrottled => {
            let lift = if evidence.io_limits.is_empty() {
                "look for limits on block I/O: io.max, io.latency, io.cost of etcd's cgroup and those above it; fsfreeze".into()
            } else {
                "lift the limit on block I/O of etcd's cgroup (io.max), or move etcd out of it".to_owned()
            };
            vec![lift]
        }
        Verdict::CpuStarved => {
            let mut lines = Vec::new();
            if evidence.cpu.quota_cpus.is_some() {
                lines.push("raise or remove the CPU quota of etcd's cgroup (cpu.max, limits.cpu of the pod)".into());
            }
            lines.push("leave the disk alone: give etcd more CPU (cpu.weight, requests.cpu), or move others away".into());
            lines
        }
        Verdict::EtcdOverhead => vec![
            "leave the disk alone: look at etcd itself, its CPU profile (--enable-pprof) and its garbage collection".into(),
            "large transactions and a large database make commits long before the first write: compact, defragment".into(),
        ],
        Verdict::FsyncDisabled => vec!["remove --unsafe-no-fsync unless this data may be lost".into()],
        Verdict::TooFewSamples => vec!["measure for longer, or under load: check --duration 5m".into()],
        Verdict::EndpointMismatch => {
            vec!["give the endpoint of this very process: --endpoints, or its --listen-metrics-urls".into()]
        }
        Verdict::Blind => vec!["see what this machine allows: etcd-disk-probe doctor".into()],
    };
    lines
}
