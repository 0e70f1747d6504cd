//! What is asked of the running system: clocks of processes, statistics of the kernel's, memory of its maps.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use probe_tests::scratch::Tracefs;
use rustix::system::uname;
use serde_json::{Value, json};

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel counts the runs of programs and their time until this is dropped.
pub struct ProgramStatistics {
    before: String,
}

impl ProgramStatistics {
    pub fn enable() -> anyhow::Result<Self> {
        let before = fs::read_to_string(STATISTICS).with_context(|| format!("cannot read {STATISTICS}"))?;
        fs::write(STATISTICS, "1").with_context(|| format!("cannot write {STATISTICS}"))?;
        Ok(Self { before })
    }
}

impl Drop for ProgramStatistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATISTICS, &self.before) {
            eprintln!("cannot restore {STATISTICS}: {error}");
        }
    }
}

/// Mounts tracefs if it is not: peers want it, and without it every attachment of the probe's would mount one of its own.
pub fn tracefs() -> anyhow::Result<Option<Tracefs>> {
    if Path::new(Tracefs::POINT).join("events/syscalls").is_dir() {
        return Ok(None);
    }
    Tracefs::mount().map(Some)
}

/// Returns the CPU time of all threads that a process has or had, to the nanosecond.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).context("cannot use a pid of that size")?;
    let mut clock = 0;
    // SAFETY: it writes one `clockid_t`, which is there.
    let status = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    ensure!(status == 0, "cannot find the clock of process {pid}");
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes one `timespec`, which is there.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(status == 0, "cannot read the clock of process {pid}");
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "CPU time is not negative")]
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// What the maps and programs that a process has open take of the kernel's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelMemory {
    pub maps: Vec<MapMemory>,
    pub program_bytes: u64,
}

/// One map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapMemory {
    /// `enum bpf_map_type` of `include/uapi/linux/bpf.h`.
    pub kind: u32,
    pub key_bytes: u64,
    pub value_bytes: u64,
    pub bytes: u64,
    id: u64,
}

/// `BPF_MAP_TYPE_HASH`
const HASH: u32 = 1;

/// `BPF_MAP_TYPE_*` of those with a copy of each value per CPU.
const PER_CPU: [u32; 4] = [5, 6, 10, 21];

impl KernelMemory {
    /// Asks after each file that the process has open.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let directory = format!("/proc/{pid}/fdinfo");
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
        // A file that is closed meanwhile has no memory.
        let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let mut memory = Self::default();
        let mut programs = Vec::new();
        for text in texts {
            if let Some(map) = map(&text) {
                memory.maps.push(map);
            } else if let (Some(id), Some(bytes)) = (field(&text, "prog_id"), field(&text, "memlock")) {
                programs.push((id, bytes));
            }
        }
        // Some are open more than once.
        memory.maps.sort_by_key(|map| map.id);
        memory.maps.dedup_by_key(|map| map.id);
        programs.sort_unstable();
        programs.dedup();
        memory.program_bytes = programs.iter().map(|(_, bytes)| bytes).sum();
        Ok(memory)
    }

    pub fn map_bytes(&self) -> u64 {
        self.maps.iter().map(|map| map.bytes).sum()
    }

    /// Returns how many maps have a copy of their values for each CPU.
    pub fn per_cpu(&self) -> usize {
        self.maps.iter().filter(|map| PER_CPU.contains(&map.kind)).count()
    }

    /// Returns what one more CPU takes: a hash that is allocated beforehand keeps one spare element for each
    /// (`prealloc_init` in `kernel/bpf/hashtab.c`: a header of 48 bytes, key and value) and the pointer to it.
    pub fn bytes_per_cpu(&self) -> u64 {
        let element =
            |map: &MapMemory| 48 + map.key_bytes.next_multiple_of(8) + map.value_bytes.next_multiple_of(8);
        self.maps.iter().filter(|map| map.kind == HASH).map(|map| element(map) + 8).sum()
    }
}

fn field(fdinfo: &str, name: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

fn map(fdinfo: &str) -> Option<MapMemory> {
    Some(MapMemory {
        kind: field(fdinfo, "map_type")?.try_into().ok()?,
        key_bytes: field(fdinfo, "key_size")?,
        value_bytes: field(fdinfo, "value_size")?,
        bytes: field(fdinfo, "memlock")?,
        id: field(fdinfo, "map_id")?,
    })
}

/// Returns what a reader of the figures has to know of the machine.
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
    fn what_the_kernel_tells_of_a_map_is_read() {
        let text = "pos:\t0\nmap_type:\t1\nkey_size:\t4\nvalue_size:\t8\nmax_entries:\t16\nmemlock:\t2048\nmap_id:\t7\n";
        let expected = MapMemory { kind: HASH, key_bytes: 4, value_bytes: 8, bytes: 2048, id: 7 };
        assert_eq!(map(text), Some(expected));
        assert_eq!(map("pos:\t0\nprog_type:\t5\nmemlock:\t4096\nprog_id:\t9\n"), None, "a program");
        let memory = KernelMemory { maps: vec![expected], program_bytes: 0 };
        assert_eq!((memory.map_bytes(), memory.per_cpu(), memory.bytes_per_cpu()), (2048, 0, 48 + 8 + 8 + 8));
    }

    #[test]
    fn this_process_has_a_clock() {
        let before = cpu_time(std::process::id()).unwrap();
        std::hint::black_box((0..1_000_000_u64).fold(0, |a, b| a ^ b.wrapping_mul(a + 7)));
        assert!(cpu_time(std::process::id()).unwrap() > before);
    }
}
