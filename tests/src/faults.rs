//! Faults that make a real etcd slow: other processes on its disk, its journal and its CPU.
//! [`crate::machine::cgroup`] sets limits, and [`crate::machine::scratch`] creates slow disks; in a virtual
//! machine device mapper does.

pub mod attempts;
pub mod evidence;
pub mod neighbours;
pub mod probe_faults;
pub mod worker;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::machine::cancel::Cancel;
use crate::machine::cgroup::{self, Cgroup};
use crate::machine::process;

/// The time limit for a culprit to end; after it the process is killed.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A file that a neighbour writes to. Its blocks are allocated, so writes to it need no journal.
const MIB: u64 = 16;

/// A separate process that slows etcd down. Ended on drop, and if the test process dies.
#[derive(Debug)]
pub struct Culprit {
    child: Child,
}

impl Culprit {
    /// Starts a command in these cgroups.
    pub fn start(mut command: Command, groups: &[&Cgroup]) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        for group in groups {
            cgroup::enter(group.path(), &mut command)?;
        }
        // SAFETY: between fork and exec it makes one system call.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        let started = command.spawn();
        let child = started
            .with_context(|| format!("cannot start {}", Path::new(command.get_program()).display()))?;
        Ok(Self { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the process has ended early and therefore had no effect on etcd.
    pub fn is_at_it(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("cannot be in etcd's way: the process ended with {}", process::describe(status));
        }
        Ok(())
    }
}

impl Drop for Culprit {
    fn drop(&mut self) {
        let pid = self.pid();
        if let Err(error) = process::end(&mut self.child, pid, END_LIMIT) {
            eprintln!("cannot end process {pid}: {error:#}");
        }
    }
}

/// Creates the file that a neighbour will write to, while its disk is still fast.
pub fn prepare_file(directory: &Path) -> anyhow::Result<PathBuf> {
    let path = directory.join("neighbour");
    fs::write(&path, vec![0; usize::try_from(MIB << 20)?])
        .and_then(|()| File::open(&path)?.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Returns a fio command whose `jobs` write blocks of such a file in random order and sync each.
pub fn fio(file: &Path, jobs: u32) -> Command {
    let mut command = Command::new("fio");
    command.args(["--name=neighbour", "--rw=randwrite", "--bs=4k", "--ioengine=psync", "--overwrite=1"]);
    // One process, so that a signal ends all of it.
    command.args(["--thread", "--fdatasync=1", "--time_based", "--runtime=300", "--output=/dev/null"]);
    command.arg(format!("--size={MIB}m")).arg(format!("--numjobs={jobs}"));
    command.arg(format!("--filename={}", file.display()));
    command
}

/// Pins a process to one CPU: its present threads and the threads that they start.
pub fn pin(pid: u32, cpu: usize) -> anyhow::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    let directory = format!("/proc/{pid}/task");
    // A thread that appears meanwhile has a pinned parent or is in the next list.
    let mut pinned = 0;
    let settled = Cancel::default().wait_for(END_LIMIT, || {
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
        let threads: Vec<i32> =
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        for thread in &threads {
            let thread = rustix::thread::Pid::from_raw(*thread);
            rustix::thread::sched_setaffinity(thread, &set).context("cannot pin a thread")?;
        }
        let same = threads.len() == pinned;
        pinned = threads.len();
        Ok(same.then_some(()))
    })?;
    settled.with_context(|| format!("cannot pin process {pid}: it starts threads all the time"))
}
