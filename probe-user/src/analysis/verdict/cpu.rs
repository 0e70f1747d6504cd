//! Time that a CPU, or the want of one, took from etcd, and that etcd blames on the disk.

use super::{
    Evidence, Verdict,
    format::{percent, share, time},
    lost_time::Lost,
    storage::Finding,
};

/// Part of a window from which on it matters that etcd's threads may not or cannot run: below it no p99 can come from it.
const STARVED: f64 = 0.05;

/// Length of the periods in which a quota is given (`cpu.max`, default of Linux), in seconds.
const PERIOD_S: f64 = 0.1;

/// Names the time for which etcd could not run: within system calls as measured there, and outside of them if something else
/// shows that it was starved.
pub fn name(evidence: &Evidence, lost: &Lost) -> [(f64, Finding); 2] {
    let signs = signs(evidence);
    // What passed outside a system call has no account of its own: the signs are its evidence.
    let (outside_s, overhead_s) =
        if signs.is_empty() { (0.0, lost.overhead_s) } else { (lost.overhead_s, 0.0) };
    let parts = [(lost.run_queue_s, "ready to run within system calls"), (outside_s, "outside of them")];
    let parts = parts.into_iter().filter(|(seconds, _)| *seconds > 0.0);
    let parts: Vec<_> = parts.map(|(seconds, what)| format!("{} {what}", time(seconds))).collect();
    let waited = format!("etcd waited for a CPU: {}", parts.join(", "));
    let starved = [waited].into_iter().chain(signs).collect::<Vec<_>>().join("; ");
    let overhead =
        format!("{} passed outside the kernel, and nothing shows that etcd lacked a CPU", time(overhead_s));
    [
        (lost.run_queue_s + outside_s, (Verdict::CpuStarved, starved)),
        (overhead_s, (Verdict::EtcdOverhead, overhead)),
    ]
}

/// Returns what shows that etcd lacked CPU time in the window.
pub fn signs(evidence: &Evidence) -> Vec<String> {
    let cpu = &evidence.cpu;
    let window_s = evidence.window_s;
    let much = |seconds: Option<f64>| {
        let part = share(seconds?, window_s);
        (part >= STARVED).then_some((seconds?, part))
    };
    let mut signs = Vec::new();
    let quota = cpu.quota_cpus.map_or_else(String::new, |cpus| format!(" ({cpus:.2} CPUs)"));
    let periods = cpu.throttled_periods.unwrap_or_default();
    if let Some((seconds, part)) = much(cpu.throttled_s) {
        signs.push(format!(
            "its cgroup had used up its quota{quota} for {}, {} of the window",
            time(seconds),
            percent(part)
        ));
    } else if periods > 0 && share(periods as f64 * PERIOD_S, window_s) >= STARVED {
        signs.push(format!("its cgroup used up its quota{quota} in {periods} periods"));
    }
    if let Some((seconds, part)) = much(cpu.run_delay_s) {
        signs.push(format!(
            "its threads waited {} in run queues, {} of the window",
            time(seconds),
            percent(part)
        ));
    }
    signs
}
