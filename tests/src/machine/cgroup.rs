//! cgroups of both versions: created, filled and removed on drop.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::machine::cancel::Cancel;

/// How long exiting processes may keep a cgroup busy.
const REMOVAL_LIMIT: Duration = Duration::from_secs(30);

/// The hierarchy in which a cgroup is created.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hierarchy {
    /// The hierarchy of this controller, alone or with others (version 1).
    Controller(&'static str),
    /// The hierarchy that all controllers share (version 2).
    Unified,
}

impl Hierarchy {
    /// Returns its mount point.
    pub fn root(self) -> anyhow::Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let root = mounts.lines().find_map(|line| self.mounted_at(line));
        root.map(PathBuf::from).with_context(|| match self {
            Self::Controller(controller) => {
                format!("cannot find a cgroup hierarchy of the controller {controller}")
            }
            Self::Unified => "cannot find the unified cgroup hierarchy".to_owned(),
        })
    }

    /// Parses a line `source point type options …`.
    fn mounted_at(self, line: &str) -> Option<&str> {
        let mut fields = line.split(' ').skip(1);
        let (point, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match self {
            Self::Controller(controller) => {
                kind == "cgroup" && options.split(',').any(|option| option == controller)
            }
            Self::Unified => kind == "cgroup2",
        };
        is_it.then_some(point)
    }
}

/// A private cgroup, removed on drop, which waits until its processes have ended.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates a cgroup below the root with this name and the pid of this process.
    pub fn create(hierarchy: Hierarchy, name: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::named(hierarchy, &format!("{name}-{}-{n}", std::process::id()))
    }

    /// Creates a cgroup below the root with exactly this name, for example the same name in several
    /// hierarchies.
    pub fn named(hierarchy: Hierarchy, name: &str) -> anyhow::Result<Self> {
        let path = hierarchy.root()?.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Enables these controllers for the children of the unified hierarchy's root.
    pub fn delegate(controllers: &[&str]) -> anyhow::Result<()> {
        let control = Hierarchy::Unified.root()?.join("cgroup.subtree_control");
        for controller in controllers {
            fs::write(&control, format!("+{controller}"))
                .with_context(|| format!("cannot hand on the controller {controller}"))?;
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the last part of its path, which is unique.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Writes one of its files, such as `cpu.max`.
    pub fn set(&self, file: &str, value: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
    }

    /// Reads one of its files, such as `cpu.stat`.
    pub fn get(&self, file: &str) -> anyhow::Result<String> {
        let path = self.path.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Returns how often the limit of CPU time has stopped it, and for how long in all.
    pub fn throttled(&self) -> anyhow::Result<Throttled> {
        let text = self.get("cpu.stat")?;
        Throttled::parse(&text).with_context(|| format!("cannot read the throttled time from {text:?}"))
    }

    /// Returns the number of writes to a device that its limit applied to (version 1).
    pub fn writes(&self, device: &str) -> anyhow::Result<u64> {
        let (numbers, text) = (numbers(device)?, self.get("blkio.throttle.io_serviced")?);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{numbers} Write ")));
        line.map_or(Ok(0), |count| {
            count.parse().with_context(|| format!("cannot read a count from {text:?}"))
        })
    }

    /// Returns the number of writes to a device by its number, such as `254:0` (version 2).
    pub fn unified_writes(&self, numbers: &str) -> anyhow::Result<u64> {
        let text = self.get("io.stat")?;
        writes_in(&text, numbers)
            .with_context(|| format!("cannot read the writes to {numbers} from {text:?}"))
    }

    /// Limits writes per second to a device (version 1); 0 removes the limit.
    pub fn limit_writes(&self, device: &str, per_second: u32) -> anyhow::Result<()> {
        self.set("blkio.throttle.write_iops_device", &format!("{} {per_second}", numbers(device)?))
    }

    /// Moves a process with all its threads into the cgroup.
    pub fn add(&self, pid: u32) -> anyhow::Result<()> {
        self.set("cgroup.procs", &pid.to_string())
    }
}

/// Parses `wios` of a device from `io.stat`; a device without a line has had no request.
fn writes_in(io_stat: &str, numbers: &str) -> Option<u64> {
    let fields = io_stat.lines().find_map(|line| line.strip_prefix(numbers)?.strip_prefix(' '));
    let Some(fields) = fields else { return Some(0) };
    fields.split_whitespace().find_map(|field| field.strip_prefix("wios=")?.parse().ok())
}

/// Returns the number of a device as cgroup files have it, such as `7:0`.
fn numbers(device: &str) -> anyhow::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let numbers = fs::metadata(device).with_context(|| format!("cannot stat {device}"))?.rdev();
    Ok(format!("{}:{}", rustix::fs::major(numbers), rustix::fs::minor(numbers)))
}

/// The effect of a limit of CPU time, from `cpu.stat`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Throttled {
    /// The number of periods in which it had no time left.
    pub periods: u64,
    /// The time without a CPU, added up over the CPUs.
    pub time: Duration,
}

impl Throttled {
    /// Parses `cpu.stat`: version 1 has nanoseconds, version 2 has microseconds.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        };
        let time = field("throttled_time").map(Duration::from_nanos);
        let time = time.or_else(|| field("throttled_usec").map(Duration::from_micros));
        Some(Self { periods: field("nr_throttled")?, time: time? })
    }

    /// Returns the effect since an earlier reading.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self { periods: self.periods - before.periods, time: self.time.saturating_sub(before.time) }
    }
}

/// Makes a command start in the cgroup at `path`: the kernel charges pages and requests to the cgroup in
/// which they began.
pub fn enter(path: &Path, command: &mut Command) -> anyhow::Result<()> {
    let path = path.join("cgroup.procs");
    let processes = OpenOptions::new().write(true).open(&path);
    let mut processes = processes.with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: between fork and exec it only writes to a file that is open already. 0 means the writing
    // process.
    unsafe { command.pre_exec(move || processes.write_all(b"0")) };
    Ok(())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let removed = Cancel::default().wait_for(REMOVAL_LIMIT, || match fs::remove_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
            other => Ok(Some(other?)),
        });
        match removed {
            Ok(Some(())) => {}
            Ok(None) => eprintln!("cannot remove {}: there are processes in it", self.path.display()),
            Err(error) => eprintln!("cannot remove {}: {error}", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_distinguished() {
        let both = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0";
        let unified = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime,nsdelegate 0 0";
        let cases = [
            (
                Hierarchy::Controller("cpu"),
                both,
                Some("/sys/fs/cgroup/cpu,cpuacct"),
                "one of two controllers",
            ),
            (Hierarchy::Controller("cpuset"), both, None, "a name that begins like another"),
            (Hierarchy::Controller("cpu"), unified, None, "version 2 names no controllers"),
            (Hierarchy::Unified, unified, Some("/sys/fs/cgroup/unified"), "version 2"),
            (Hierarchy::Unified, both, None, "version 1"),
        ];
        for (hierarchy, line, expected, why) in cases {
            assert_eq!(hierarchy.mounted_at(line), expected, "{why}");
        }
    }

    #[test]
    fn writes_of_one_device() {
        let text = "254:1 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n254:0 rios=5 wios=6\n";
        for (numbers, expected) in [("254:1", Some(4)), ("254:0", Some(6)), ("254:2", Some(0))] {
            assert_eq!(writes_in(text, numbers), expected, "{numbers}");
        }
        assert_eq!(writes_in("254:0 rios=5\n", "254:0"), None, "no such field");
    }

    #[test]
    fn both_versions_report_the_throttled_time() {
        let cases = [
            ("nr_periods 9\nnr_throttled 4\nthrottled_time 3000000\n", "version 1"),
            ("usage_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 3000\nnr_bursts 0\n", "version 2"),
        ];
        for (text, why) in cases {
            let expected = Throttled { periods: 4, time: Duration::from_millis(3) };
            assert_eq!(Throttled::parse(text), Some(expected), "{why}");
        }
        assert_eq!(Throttled::parse("usage_usec 1\n"), None, "without the controller");
    }
}
