//! The program under test: `etcd-disk-probe` as a daemon and as commands that run to completion.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use probe_user::system::thread_capabilities::limit_bounding_set;
use rustix::{
    process::{Resource, Rlimit, Signal, setrlimit},
    thread::CapabilitySet,
};
use serde_json::Value;

use crate::machine::cancel::Cancel;
use crate::machine::http::{Endpoint, Response, free_address};
use crate::machine::process;
#[cfg(feature = "harness")]
use crate::probe::metrics::Metrics;

/// The time limit for the daemon to become ready.
const READY_LIMIT: Duration = Duration::from_mins(1);

/// The time limit for an orderly stop; after it the daemon is killed.
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// The number of log lines in an error.
const TAIL_LINES: usize = 12;

/// Returns the probe under test: `$ETCD_DISK_PROBE_BIN`, else the binary that `cargo xtask build` creates in
/// this workspace.
pub fn binary() -> anyhow::Result<PathBuf> {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/release/etcd-disk-probe");
    let path = env::var_os("ETCD_DISK_PROBE_BIN").map_or_else(built, PathBuf::from);
    if !path.is_file() {
        bail!("cannot find the probe at {}; `cargo xtask build` makes it", path.display());
    }
    Ok(path)
}

/// The command line, environment and limits of the probe.
#[derive(Clone, Debug)]
pub struct Invocation {
    prefix: Vec<String>,
    binary: PathBuf,
    directory: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// `None`: the caller's capabilities.
    capabilities: Option<CapabilitySet>,
    /// `None`: the caller's limit.
    locked_bytes: Option<u64>,
}

impl Invocation {
    /// Describes a call of `binary` whose output goes to files in `directory`.
    pub fn new(binary: &Path, directory: &Path) -> Self {
        Self {
            prefix: Vec::new(),
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            capabilities: None,
            locked_bytes: None,
        }
    }

    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&word| word.to_owned()));
        self
    }

    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Restricts it to these capabilities, as root.
    #[must_use]
    pub fn capabilities(mut self, capabilities: CapabilitySet) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Limits its locked memory to this, unless it may raise the limit.
    #[must_use]
    pub fn locked_memory(mut self, bytes: u64) -> Self {
        self.locked_bytes = Some(bytes);
        self
    }

    /// Calls it through another command that executes it, such as `setpriv --bounding-set=-all`.
    #[must_use]
    pub fn through(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Starts the daemon on a free port and waits until it is ready.
    pub fn run(&self) -> anyhow::Result<Probe> {
        self.launch()?.ready()
    }

    /// Starts the daemon on a free port without waiting.
    pub fn launch(&self) -> anyhow::Result<Probe> {
        let address = free_address()?;
        let call = self.clone().arguments(&["--listen", &address.to_string()]);
        let started = Instant::now();
        Ok(Probe {
            running: call.spawn("run")?,
            endpoint: Endpoint::plain(address),
            started,
            ready_after: None,
        })
    }

    /// Starts one of its commands, such as `check`, without waiting.
    pub fn start(&self, command: &str) -> anyhow::Result<Running> {
        self.spawn(command)
    }

    fn spawn(&self, subcommand: &str) -> anyhow::Result<Running> {
        let stem = format!("probe-{subcommand}-{}", free_number());
        let file = |extension: &str| self.directory.join(format!("{stem}.{extension}"));
        let (output, log) = (file("out"), file("log"));
        let create =
            |path: &Path| File::create(path).with_context(|| format!("cannot create {}", path.display()));
        let mut words = self.prefix.clone();
        words.push(self.binary.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(subcommand).args(&self.arguments);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        command.envs(self.environment.clone()).stdin(Stdio::null()).process_group(0);
        if let Some(kept) = self.capabilities {
            // SAFETY: between fork and exec it only makes system calls, on the only thread.
            unsafe { command.pre_exec(move || limit_bounding_set(kept).map_err(io::Error::other)) };
        }
        if let Some(bytes) = self.locked_bytes {
            let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
            // SAFETY: between fork and exec it makes one system call.
            unsafe { command.pre_exec(move || Ok(setrlimit(Resource::Memlock, limit)?)) };
        }
        let child = command.stdout(create(&output)?).stderr(create(&log)?).spawn();
        let child = child.with_context(|| format!("cannot start {}", words[0]))?;
        Ok(Running { child, output, log })
    }
}

/// Returns a number that is unique within this process, for file names.
fn free_number() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A running probe. Stopped on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

/// The exit code and the output of a command of the probe.
#[derive(Clone, Debug)]
pub struct Finished {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Parses its standard output as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| {
            format!("cannot parse the probe's JSON: {}; its log: {}", self.stdout, self.stderr)
        })
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its result, or `None` while it runs.
    pub fn try_finished(&mut self) -> anyhow::Result<Option<Finished>> {
        let Some(status) = self.child.try_wait().context("cannot wait for the probe")? else {
            return Ok(None);
        };
        let read =
            |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(Some(Finished { code: status.code(), stdout: read(&self.output)?, stderr: read(&self.log)? }))
    }

    /// Waits for its end, for at most `limit`.
    pub fn wait(mut self, limit: Duration) -> anyhow::Result<Finished> {
        let finished = Cancel::default().wait_for(limit, || self.try_finished())?;
        finished.with_context(|| format!("the probe has not ended after {limit:?}; {}", self.tail()))
    }

    /// Returns its standard output so far.
    pub fn output(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.output).with_context(|| format!("cannot read {}", self.output.display()))
    }

    /// Sends SIGINT, as Ctrl-C does, and waits for its end, for at most `limit`.
    pub fn interrupt(self, limit: Duration) -> anyhow::Result<Finished> {
        process::send(self.pid(), Signal::INT)?;
        self.wait(limit)
    }

    /// Stops it with SIGTERM, or with SIGKILL if that takes too long.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = self.pid();
        process::end(&mut self.child, pid, STOP_LIMIT)
    }

    /// Returns the last lines of its log, for an error message.
    pub fn tail(&self) -> String {
        process::tail(&self.log, TAIL_LINES)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("cannot stop the probe: {error:#}");
        }
    }
}

/// The daemon. Stopped on drop.
#[derive(Debug)]
pub struct Probe {
    running: Running,
    endpoint: Endpoint,
    started: Instant,
    ready_after: Option<Duration>,
}

impl Probe {
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Returns the time from its start until it reported readiness, with a resolution of 20 ms.
    pub fn ready_after(&self) -> Option<Duration> {
        self.ready_after
    }

    pub fn is_ready(&self) -> bool {
        self.get("/-/ready").is_ok_and(|response| response.status == 200)
    }

    /// Waits until it is ready as [`Invocation::run`] does.
    pub fn ready(mut self) -> anyhow::Result<Self> {
        self.wait_until_ready(READY_LIMIT)?;
        Ok(self)
    }

    /// Waits until it is ready; if it ends early or exceeds the limit, the error shows the log.
    pub fn wait_until_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let ready = Cancel::default().wait_for(limit, || {
            if let Some(finished) = self.running.try_finished()? {
                bail!("the probe ended with code {:?}; {}", finished.code, self.running.tail());
            }
            Ok(self.is_ready().then_some(()))
        })?;
        self.ready_after = Some(self.started.elapsed());
        ready.with_context(|| format!("the probe is not ready after {limit:?}; {}", self.running.tail()))
    }

    /// Sends requests to it in another way, over TLS or with a password.
    #[must_use]
    pub fn reached_by(mut self, endpoint: Endpoint) -> Self {
        self.endpoint = endpoint;
        self
    }

    /// Returns its endpoint.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Response> {
        self.endpoint.get(path)
    }

    #[cfg(feature = "harness")]
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        Metrics::parse(&self.get("/metrics")?.text()?)
    }

    /// Returns its log so far.
    pub fn log(&self) -> anyhow::Result<String> {
        let log = &self.running.log;
        fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill9(mut self) -> anyhow::Result<()> {
        process::send(self.pid(), Signal::KILL)?;
        self.running.child.wait().context("cannot wait for the probe")?;
        Ok(())
    }

    /// Waits for its end, which another event causes, for at most `limit`.
    pub fn ended(self, limit: Duration) -> anyhow::Result<Finished> {
        self.running.wait(limit)
    }

    /// Stops it in order and returns its exit status.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.running.stop()
    }
}
