//! What makes a real etcd slow, for real: others on its disk, its journal and its CPU. Limits are set through
//! [`crate::machine::cgroup`], slow disks made by [`crate::machine::scratch`] and, in a virtual machine, by device mapper.

pub mod attempts;
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

/// How long one may take to end before it is killed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A file that others write to: its blocks are there, so that writing to it takes no journal.
const MIB: u64 = 16;

/// Somebody who is in etcd's way: a process of its own. Ended on drop, and if the test dies.
#[derive(Debug)]
pub struct Culprit {
    child: Child,
}

impl Culprit {
    /// Starts a command in these groups.
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

    /// Fails if it has ended by itself, and thus done nothing to etcd.
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

/// Makes the file that a neighbour is going to write to, while its disk is still fast.
pub fn prepare_file(directory: &Path) -> anyhow::Result<PathBuf> {
    let path = directory.join("neighbour");
    fs::write(&path, vec![0; usize::try_from(MIB << 20)?])
        .and_then(|()| File::open(&path)?.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Returns a fio whose `jobs` write blocks of such a file in any order, and sync each.
pub fn fio(file: &Path, jobs: u32) -> Command {
    let mut command = Command::new("fio");
    command.args(["--name=neighbour", "--rw=randwrite", "--bs=4k", "--ioengine=psync", "--overwrite=1"]);
    // One process, which a signal ends whole.
    command.args(["--thread", "--fdatasync=1", "--time_based", "--runtime=300", "--output=/dev/null"]);
    command.arg(format!("--size={MIB}m")).arg(format!("--numjobs={jobs}"));
    command.arg(format!("--filename={}", file.display()));
    command
}

/// Pins a process to one processor, its threads that are there and those that they start.
pub fn pin(pid: u32, processor: usize) -> anyhow::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    let directory = format!("/proc/{pid}/task");
    // Threads that appear meanwhile have a parent that was pinned, or are in the next list.
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
