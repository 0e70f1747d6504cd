//! Access to the running system: tracefs, CPU clocks of processes, a description of the machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use probe_tests::machine::scratch::Tracefs;
use rustix::system::uname;
use serde_json::{Value, json};

/// Mounts tracefs if it is not mounted: peers require it, and without it every attachment of the probe would
/// mount one of its own.
pub fn tracefs() -> anyhow::Result<Option<Tracefs>> {
    if Path::new(Tracefs::POINT).join("events/syscalls").is_dir() {
        return Ok(None);
    }
    Tracefs::mount().map(Some)
}

/// Returns the CPU time of all present and past threads of a process, in nanoseconds.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).context("cannot use a pid of that size")?;
    let mut clock = 0;
    // SAFETY: it writes one `clockid_t`, to a local variable.
    let status = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    ensure!(status == 0, "cannot find the clock of process {pid}");
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes one `timespec`, to a local variable.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(status == 0, "cannot read the clock of process {pid}");
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "CPU time is not negative")]
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Returns the properties of the machine that a reader of the figures needs.
pub fn describe() -> Value {
    let name = uname();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.trim_start().strip_prefix(": "));
    json!({
        "kernel": name.release().to_string_lossy(),
        "version": name.version().to_string_lossy(),
        "architecture": name.machine().to_string_lossy(),
        "cpu": model,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_clock() {
        let before = cpu_time(std::process::id()).unwrap();
        std::hint::black_box((0..1_000_000_u64).fold(0_u64, |a, b| a ^ b.wrapping_mul(a.wrapping_add(7))));
        assert!(cpu_time(std::process::id()).unwrap() > before);
    }
}
