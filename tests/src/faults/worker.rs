//! The workload of a culprit in a process of its own: the program `worker` on the host, the guest itself in a
//! virtual machine.

use std::fs::{self, File, OpenOptions};
use std::hint;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, bail};
use rustix::fs::OFlags;
use rustix::process::setpriority_process;

/// The first argument, for a program that also has other modes.
pub const WORD: &str = "worker";

/// The number of files that a thread of a storm keeps.
const FILES: usize = 64;

/// The workload, which runs until the process is ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Work {
    /// Uses a CPU with this nice value (-20 is the highest priority).
    Spin { nice: i32 },
    /// Creates, syncs and renames files in directories of its own.
    Storm { directory: PathBuf, threads: usize },
    /// Overwrites blocks of a file with direct I/O and never syncs.
    Write { file: PathBuf, threads: usize },
}

impl Work {
    /// Returns the command for this workload.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg(WORD);
        match self {
            Self::Spin { nice } => command.args(["spin", &nice.to_string()]),
            Self::Storm { directory, threads } => {
                command.arg("storm").arg(directory).arg(threads.to_string())
            }
            Self::Write { file, threads } => command.arg("write").arg(file).arg(threads.to_string()),
        };
        command
    }

    /// Parses the arguments that [`Work::command`] wrote, after [`WORD`].
    pub fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Ok(match arguments[..] {
            ["spin", nice] => Self::Spin { nice: nice.parse()? },
            ["storm", directory, threads] => {
                Self::Storm { directory: directory.into(), threads: threads.parse()? }
            }
            ["write", file, threads] => Self::Write { file: file.into(), threads: threads.parse()? },
            _ => bail!("cannot do {arguments:?}"),
        })
    }

    /// Runs the workload; returns only on an error.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Spin { nice } => {
                setpriority_process(None, nice).context("cannot be more important than others")?;
                spin()
            }
            Self::Storm { directory, threads } => {
                all(threads, |n| storm(&directory.join(format!("storm-{n}")))).context("cannot storm")
            }
            Self::Write { file, threads } => all(threads, |n| write(&file, n)).context("cannot write"),
        }
    }
}

fn spin() -> ! {
    loop {
        hint::spin_loop();
    }
}

/// Runs `work` on some threads and returns the first error.
fn all(threads: usize, work: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn({
                    let work = &work;
                    move || work(n)
                })
            })
            .collect();
        running.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    })
}

/// Each round takes two journal commits, which other processes on that file system must wait for.
fn storm(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let itself = File::open(directory)?;
    for n in (0..FILES).cycle() {
        let new = directory.join("new");
        File::create(&new)?.sync_all()?;
        fs::rename(&new, directory.join(n.to_string()))?;
        itself.sync_all()?;
    }
    Ok(())
}

#[repr(C, align(4096))]
struct Block([u8; 4096]);

fn write(path: &Path, n: usize) -> io::Result<()> {
    let direct = OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new().write(true).custom_flags(direct).open(path)?;
    let blocks = file.metadata()?.len() / 4096;
    let block = Block([7; 4096]);
    // Strides: the kernel would merge adjacent requests.
    for step in (n as u64..).map(|round| round * 7919) {
        file.write_all_at(&block.0, step % blocks * 4096)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_read_back() {
        for work in [
            Work::Spin { nice: -20 },
            Work::Storm { directory: "/tmp/a b".into(), threads: 8 },
            Work::Write { file: "/tmp/file".into(), threads: 2 },
        ] {
            let command = work.command(Path::new("program"));
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            assert_eq!(words[0], WORD);
            assert_eq!(Work::parse(&words[1..]).unwrap(), work);
        }
        assert!(Work::parse(&["rest".to_owned()]).is_err());
    }
}
