//! The next steps for each verdict: what an operator can do at a shell, the cheapest first.

use super::{Evidence, Verdict, evidence::Class};

/// Returns the next steps for a verdict.
pub fn next(verdict: Verdict, evidence: &Evidence) -> Vec<String> {
    let steps: &[&str] = match verdict {
        Verdict::DeviceSlow => return device_slow(evidence),
        Verdict::FlushSlow => return flush_slow(evidence),
        Verdict::QueueSaturated => return queue_saturated(evidence),
        Verdict::NoisyNeighbour => return noisy_neighbour(evidence),
        Verdict::CpuStarved => return cpu_starved(evidence),
        Verdict::Healthy => &[],
        Verdict::Stalled => &[
            "check the kernel log for resets and timeouts of the device: dmesg --level err,warn",
            "if the file system is frozen, thaw it: fsfreeze --unfreeze MOUNTPOINT",
        ],
        Verdict::JournalContention => &[
            "move the other writers of this file system to another one: its journal is shared",
            "put etcd's WAL on a dedicated file system: --wal-dir",
        ],
        Verdict::IoThrottled if evidence.io_limits.is_empty() => &[
            "check for block I/O limits: io.max, io.latency, io.cost of etcd's cgroup and its parents; fsfreeze",
        ],
        Verdict::IoThrottled => {
            &["raise the block I/O limit of etcd's cgroup (io.max), or move etcd to another cgroup"]
        }
        Verdict::EtcdOverhead => &[
            "the disk is not the cause: inspect etcd's CPU profile (--enable-pprof) and its garbage collection",
            "large transactions and a large database delay the first write of a commit: compact, defragment",
        ],
        Verdict::FsyncDisabled => &["remove --unsafe-no-fsync unless this data may be lost"],
        Verdict::TooFewSamples => &["measure for longer, or under load: check --duration 5m"],
        Verdict::EndpointMismatch => {
            &["set the endpoint of the traced process: --endpoints, or its --listen-metrics-urls"]
        }
        Verdict::Blind => &["check the requirements on this machine: etcd-disk-probe doctor"],
    };
    steps.iter().map(|step| (*step).to_owned()).collect()
}

fn device_name<'a>(evidence: &'a Evidence) -> &'a str {
    evidence.device.as_ref().map_or("the device", |device| device.name.as_str())
}

fn device_slow(evidence: &Evidence) -> Vec<String> {
    let name = device_name(evidence);
    let cloud = evidence.device.as_ref().and_then(|device| device.cloud);
    let volume = cloud.map(|cloud| {
        format!("compare the load with the volume's IOPS and throughput limits at {cloud}, and raise them")
    });
    let health = format!("check the health of {name}: smartctl -a, firmware, cache of the RAID controller");
    let faster =
        "move etcd's data to a faster device: a p99 of 10 ms requires an SSD with a safe write cache";
    volume.into_iter().chain([health, faster.to_owned()]).collect()
}

fn flush_slow(evidence: &Evidence) -> Vec<String> {
    let name = device_name(evidence);
    let host = "on a virtual machine, check the host's cache mode of the disk (writethrough and directsync \
                flush each write)";
    vec![
        format!(
            "compare the write cache of {name} with its data sheet: \
             cat /sys/block/{name}/queue/write_cache"
        ),
        "use a device with power-loss protection, which completes a flush immediately".to_owned(),
        host.to_owned(),
    ]
}

fn queue_saturated(evidence: &Evidence) -> Vec<String> {
    let name = device_name(evidence);
    vec![
        format!("find what fills the queue of {name}: iostat -x 1 (aqu-sz), and the neighbours above"),
        "move etcd to a dedicated device, or limit the other users of this one (io.max, io.weight)"
            .to_owned(),
    ]
}

fn noisy_neighbour(evidence: &Evidence) -> Vec<String> {
    let heaviest = evidence.neighbours.first();
    let owner = heaviest.map_or("the other load", |neighbour| neighbour.owner.as_str());
    let mut steps = vec![
        format!("move {owner} to another disk, or limit it with io.max of its cgroup"),
        "put etcd's WAL on a dedicated device: --wal-dir".to_owned(),
    ];
    let discards = evidence.device.as_ref().map_or(0, |device| device.class(Class::Discard).requests);
    if discards > 0 {
        steps.push(format!(
            "{discards} discards were sent: mount without `discard`, run fstrim during idle periods"
        ));
    }
    steps
}

fn cpu_starved(evidence: &Evidence) -> Vec<String> {
    let quota = "raise or remove the CPU quota of etcd's cgroup (cpu.max, limits.cpu of the pod)";
    let shares = "the disk is not the cause: give etcd more CPU (cpu.weight, requests.cpu), or move other load \
                  away";
    let quota = evidence.cpu.quota_cpus.map(|_| quota.to_owned());
    quota.into_iter().chain([shares.to_owned()]).collect()
}
