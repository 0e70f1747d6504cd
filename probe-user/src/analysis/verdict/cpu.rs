//! Time that etcd lost to a CPU or to the lack of one, and that its metrics count as disk time.

use super::{
    Evidence, Verdict,
    format::{percent, share, time},
    lost_time::LostTime,
    storage::Explanation,
};

/// The minimum share of a window in which etcd's threads are throttled or wait for a CPU: less cannot cause a
/// slow p99.
const STARVED_SHARE_MIN: f64 = 0.05;

/// Length of a quota period in seconds (`cpu.max`, the default of Linux).
const QUOTA_PERIOD_S: f64 = 0.1;

/// Names the time for which etcd could not run: within system calls as measured there, and outside them if
/// [`signs`] show that it was starved.
pub fn name(evidence: &Evidence, lost: &LostTime) -> [(f64, Explanation); 2] {
    let signs = signs(evidence);
    // Time outside system calls has no scheduler statistics of its own: the signs are its evidence.
    let (outside_s, overhead_s) =
        if signs.is_empty() { (0.0, lost.overhead_s) } else { (lost.overhead_s, 0.0) };
    let parts = [(lost.run_queue_s, "ready to run within system calls"), (outside_s, "outside them")];
    let parts = parts.into_iter().filter(|(seconds, _)| *seconds > 0.0);
    let parts: Vec<_> = parts.map(|(seconds, what)| format!("{} {what}", time(seconds))).collect();
    let waited = format!("etcd waited for a CPU: {}", parts.join(", "));
    let starved = [waited].into_iter().chain(signs).collect::<Vec<_>>().join("; ");
    let overhead =
        format!("{} passed outside the kernel, without evidence that etcd lacked a CPU", time(overhead_s));
    [
        (lost.run_queue_s + outside_s, (Verdict::CpuStarved, starved)),
        (overhead_s, (Verdict::EtcdOverhead, overhead)),
    ]
}

/// Returns the evidence that etcd lacked CPU time in the window, a sentence each.
pub fn signs(evidence: &Evidence) -> Vec<String> {
    let cpu = &evidence.cpu;
    let window_s = evidence.window_s;
    let much = |seconds: Option<f64>| {
        let part = share(seconds?, window_s);
        (part >= STARVED_SHARE_MIN).then_some((seconds?, part))
    };
    let mut signs = Vec::new();
    let quota = cpu.quota_cpus.map_or_else(String::new, |cpus| format!(" ({cpus:.2} CPUs)"));
    let periods = cpu.throttled_periods.unwrap_or_default();
    if let Some((seconds, part)) = much(cpu.throttled_s) {
        signs.push(format!(
            "its cgroup was throttled by its quota{quota} for {}, {} of the window",
            time(seconds),
            percent(part)
        ));
    } else if periods > 0 && share(periods as f64 * QUOTA_PERIOD_S, window_s) >= STARVED_SHARE_MIN {
        signs.push(format!("its cgroup exhausted its quota{quota} in {periods} periods"));
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
