//! A process that makes system calls on request, as etcd or as another process, and reports how long one
//! took.

mod call;
mod many;

use std::fs;
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};
use rustix::thread::{CpuSet, sched_setaffinity};

pub use self::call::Call;
use self::call::Files;
pub use self::many::Made;

/// The first argument of a worker process.
pub const WORD: &str = "worker";

/// Executes orders, one per line, until the input ends.
pub fn serve(arguments: &[String]) -> anyhow::Result<()> {
    let [name, directory, cpu] = arguments else { bail!("a worker needs a name, a directory and a CPU") };
    fs::write("/proc/self/comm", name).context("cannot change the name of this process")?;
    if let Ok(cpu) = cpu.parse() {
        pin(cpu)?;
    }
    let files = Files::create(Path::new(directory), name == "etcd")?;
    println!("ready");
    for line in stdin().lock().lines() {
        println!("{}", follow(&line?, &files)?);
        stdout().flush()?;
    }
    Ok(())
}

/// Executes one line and returns the answer.
fn follow(line: &str, files: &Files) -> anyhow::Result<String> {
    let words: Vec<_> = line.split(' ').collect();
    Ok(match words[..] {
        ["time", call, times] => files.time(call.parse()?, times.parse()?)?.to_string(),
        ["threads", threads, times] => many::cost(files, threads.parse()?, times.parse()?)?.to_string(),
        ["rate", rate, seconds] => many::at_rate(files, rate.parse()?, seconds.parse()?)?.to_string(),
        _ => bail!("cannot follow `{line}`"),
    })
}

/// Pins this thread, and the threads that it starts, to one CPU.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only).with_context(|| format!("cannot stay on CPU {cpu}"))
}

/// The handle of such a process. Ended on drop.
pub struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one called `name` with its files in a directory; one called `etcd` names them as etcd does.
    pub fn start(name: &str, directory: &Path, cpu: Option<usize>) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([WORD, name])
            .arg(directory)
            .arg(cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string()))
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

    /// Returns nanoseconds per call.
    pub fn time(&mut self, call: Call, times: u32) -> anyhow::Result<f64> {
        self.order(&format!("time {} {times}", call.as_str()))?;
        self.answer()?.parse().context("cannot parse the answer as a number")
    }

    /// Returns nanoseconds of CPU per write while this many threads write.
    pub fn cost_with_threads(&mut self, threads: u32, times: u32) -> anyhow::Result<f64> {
        self.order(&format!("threads {threads} {times}"))?;
        self.answer()?.parse().context("cannot parse the answer as a number")
    }

    /// Starts operations at this rate; [`Worker::made`] waits for the end.
    pub fn start_rate(&mut self, per_second: u64, seconds: u64) -> anyhow::Result<()> {
        self.order(&format!("rate {per_second} {seconds}"))
    }

    /// Returns the operations made since [`Worker::start_rate`].
    pub fn made(&mut self) -> anyhow::Result<Made> {
        self.answer()?.parse()
    }

    fn order(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{line}").context("cannot send an order to a worker")
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "a worker ended early");
        Ok(line.trim().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
