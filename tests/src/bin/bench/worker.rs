//! Makes one system call many times, as etcd or as somebody else, and tells how long one took.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe, stdin, stdout};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::{fs::fdatasync, io, process::getppid};

/// Calls between two looks at the clock: a pipe holds 64 KiB, and the segment need not grow.
const BATCH: u32 = 4096;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Call {
    /// On nothing.
    Getppid,
    /// One byte into a pipe.
    PipeWrite,
    /// One byte into a segment of a WAL.
    Write,
    /// A page of a database, not a meta page.
    Pwrite64,
    /// Of a segment.
    Fdatasync,
}

impl Call {
    pub const ALL: [Self; 5] = [Self::Getppid, Self::PipeWrite, Self::Write, Self::Pwrite64, Self::Fdatasync];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Getppid => "getppid",
            Self::PipeWrite => "write to a pipe",
            Self::Write => "write",
            Self::Pwrite64 => "pwrite64",
            Self::Fdatasync => "fdatasync",
        }
    }
}

/// The files of an etcd, as far as the probe knows it by them.
struct Files {
    segment: File,
    database: File,
    pipe: (PipeReader, PipeWriter),
}

impl Files {
    fn create(directory: &Path) -> anyhow::Result<Self> {
        let open = |path: PathBuf| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
            file.with_context(|| format!("cannot create {}", path.display()))
        };
        for name in ["wal", "snap"] {
            fs::create_dir_all(directory.join(name)).context("cannot make a directory")?;
        }
        Ok(Self {
            segment: open(directory.join("wal/0000000000000000-0000000000000000.wal"))?,
            database: open(directory.join("snap/db"))?,
            pipe: pipe().context("cannot make a pipe")?,
        })
    }

    fn call(&self, call: Call, buffer: &mut [u8; 4096]) -> io::Result<()> {
        match call {
            Call::Getppid => drop(black_box(getppid())),
            Call::PipeWrite => drop(io::write(&self.pipe.1, &buffer[..1])?),
            Call::Write => drop(io::write(&self.segment, &buffer[..1])?),
            Call::Pwrite64 => drop(io::pwrite(&self.database, &buffer[..], 8 * 4096)?),
            Call::Fdatasync => fdatasync(self.segment.as_fd())?,
        }
        Ok(())
    }

    /// Returns nanoseconds a call.
    fn time(&self, call: Call, times: u32) -> anyhow::Result<f64> {
        let mut buffer = [0_u8; 4096];
        let mut took_ns = 0;
        for _ in 0..times.div_ceil(BATCH) {
            let started = Instant::now();
            for _ in 0..BATCH {
                self.call(call, &mut buffer)?;
            }
            took_ns += started.elapsed().as_nanos();
            match call {
                Call::PipeWrite => drop(io::read(&self.pipe.0, &mut buffer)?),
                Call::Write => drop(rustix::fs::seek(&self.segment, rustix::fs::SeekFrom::Start(0))?),
                _ => {}
            }
        }
        Ok(took_ns as f64 / f64::from(times.div_ceil(BATCH) * BATCH))
    }
}

/// Answers orders of `CALL TIMES`, a line each, until there are no more.
pub fn serve(name: &str, directory: &Path) -> anyhow::Result<()> {
    fs::write("/proc/self/comm", name).context("cannot change the name of this process")?;
    let files = Files::create(directory)?;
    println!("ready");
    for line in stdin().lock().lines() {
        let line = line?;
        let (call, times) = line.split_once(' ').context("an order has two words")?;
        let call =
            Call::ALL.into_iter().find(|known| format!("{known:?}") == call).context("no such call")?;
        println!("{}", files.time(call, times.parse()?)?);
        stdout().flush()?;
    }
    Ok(())
}

/// A process that does this.
pub struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    pub fn start(name: &str, directory: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["worker", name])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a worker")?;
        let orders = child.stdin.take().context("its input is a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut worker = Self { child, orders, answers };
        ensure!(worker.answer()? == "ready", "the worker is not ready");
        Ok(worker)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns nanoseconds a call.
    pub fn time(&mut self, call: Call, times: u32) -> anyhow::Result<f64> {
        writeln!(self.orders, "{call:?} {times}")?;
        self.answer()?.parse().context("cannot take the answer for a number")
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
