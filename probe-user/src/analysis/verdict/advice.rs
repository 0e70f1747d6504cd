//! The next steps for each verdict: what an operator can do at a shell, the cheapest first.

use super::{Evidence, Verdict, evidence::Class};

/// Returns the next steps for a verdict.
pub fn next(verdict: Verdict, evidence: &Evidence) -> Vec<String> {
    let device = evidence.device.as_ref();
    let name = device.map_or("the device", |device| device.name.as_str());
    let heaviest = evidence.neighbours.first();
    let lines: Vec<String> = match verdict {
        Verdict::Healthy => vec![],
        Verdict::Stalled => vec![
            "check the kernel log for resets and timeouts of the device: dmesg --level err,warn".into(),
            "if the file system is frozen, thaw it: fsfreeze --unfreeze MOUNTPOINT".into(),
        ],
        Verdict::DeviceSlow => {
            let volume = device.and_then(|device| device.cloud).map(|cloud| {
                format!(
                    "compare the load with the volume's IOPS and throughput limits at {cloud}, and \
                 raise them"
                )
            });
            let health = format!(
                "check the health of {name}: smartctl -a, firmware, cache of the RAID \
             controller"
            );
            let faster =
                "move etcd's data to a faster device: a p99 of 10 ms requires an SSD with a safe write cache";
            volume.into_iter().chain([health, faster.into()]).collect()
        }
        Verdict::FlushSlow => {
            let cache = format!(
                "compare the write cache of {name} with its data sheet: cat \
                 /sys/block/{name}/queue/write_cache"
            );
            vec![
                cache,
                "use a device with power-loss protection, which completes a flush immediately".into(),
                "on a virtual machine, check the host's cache mode of the disk (writethrough and \
                 directsync flush \
                 each write)"
                    .into(),
            ]
        }
        Verdict::QueueSaturated => vec![
            format!("find what fills the queue of {name}: iostat -x 1 (aqu-sz), and the neighbours above"),
            "move etcd to a dedicated device, or limit the other users of this one (io.max, \
             io.weight)"
                .into(),
        ],
        Verdict::NoisyNeighbour => {
            let owner = heaviest.map_or("the other load", |neighbour| neighbour.owner.as_str());
            let mut lines = vec![
                format!("move {owner} to another disk, or limit it with io.max of its cgroup"),
                "put etcd's WAL on a dedicated device: --wal-dir".into(),
            ];
            let discards = device.map_or(0, |device| device.class(Class::Discard).requests);
            if discards > 0 {
                lines.push(format!(
                    "{discards} discards were sent: mount without `discard`, run fstrim during idle periods"
                ));
            }
            lines
        }
        Verdict::JournalContention => vec![
            "move the other writers of this file system to another one: its journal is shared".into(),
            "put etcd's WAL on a dedicated file system: --wal-dir".into(),
        ],
        Verdict::IoThrottled => {
            let lift = if evidence.io_limits.is_empty() {
                "check for block I/O limits: io.max, io.latency, io.cost of etcd's cgroup and its \
                 parents; fsfreeze"
                    .into()
            } else {
                "raise the block I/O limit of etcd's cgroup (io.max), or move etcd to another \
                 cgroup"
                    .to_owned()
            };
            vec![lift]
        }
        Verdict::CpuStarved => {
            let mut lines = Vec::new();
            if evidence.cpu.quota_cpus.is_some() {
                lines.push(
                    "raise or remove the CPU quota of etcd's cgroup (cpu.max, limits.cpu of the pod)".into(),
                );
            }
            lines.push(
                "the disk is not the cause: give etcd more CPU (cpu.weight, requests.cpu), or move \
                 other load away"
                    .into(),
            );
            lines
        }
        Verdict::EtcdOverhead => vec![
            "the disk is not the cause: inspect etcd's CPU profile (--enable-pprof) and its garbage \
             collection"
                .into(),
            "large transactions and a large database delay the first write of a commit: compact, \
             defragment"
                .into(),
        ],
        Verdict::FsyncDisabled => vec!["remove --unsafe-no-fsync unless this data may be lost".into()],
        Verdict::TooFewSamples => vec!["measure for longer, or under load: check --duration 5m".into()],
        Verdict::EndpointMismatch => {
            vec!["set the endpoint of the traced process: --endpoints, or its --listen-metrics-urls".into()]
        }
        Verdict::Blind => vec!["check the requirements on this machine: etcd-disk-probe doctor".into()],
    };
    lines
}
