//! One member of a real etcd: selected by version, started on free ports, killed, restarted, and stopped on
//! drop.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::etcd::certs::Mutual;
use crate::etcd::namespaces::Namespaces;
use crate::etcd::settings::{ConfigSource, Settings};
use crate::machine::cancel::Cancel;
use crate::machine::cgroup::{self, Cgroup};
use crate::machine::http::{Endpoint, free_address};
use crate::machine::process;
#[cfg(feature = "harness")]
use crate::probe::metrics::Metrics;

/// The time limit for a member to become healthy, which on a slow disk includes an election.
const START_LIMIT: Duration = Duration::from_mins(1);

/// The time limit for an orderly stop; after it the member is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The number of log lines in an error.
const TAIL_LINES: usize = 12;

/// The condition for a member to count as started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Readiness {
    /// Its `/health` returns healthy.
    #[default]
    Healthy,
    /// Its client port is open; that is all a test can check when the certificate is not trusted.
    Listening,
}

/// The description of a member; [`Member::start`] runs it.
#[derive(Clone, Debug)]
pub struct Member {
    binary: PathBuf,
    name: String,
    data_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    log: PathBuf,
    tls: Option<Mutual>,
    settings: Settings,
    config_source: ConfigSource,
    namespaces: Option<Namespaces>,
    readiness: Readiness,
    user: Option<u32>,
    groups: Vec<PathBuf>,
    stop: Cancel,
}

impl Member {
    /// Describes a member with data in `<directory>/<name>.etcd` and a log in `<directory>/<name>.log`.
    pub fn new(binary: &Path, name: &str, directory: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            name: name.to_owned(),
            data_dir: directory.join(format!("{name}.etcd")),
            wal_dir: None,
            log: directory.join(format!("{name}.log")),
            tls: None,
            settings: Settings::default(),
            config_source: ConfigSource::default(),
            namespaces: None,
            readiness: Readiness::default(),
            user: None,
            groups: Vec::new(),
            stop: Cancel::default(),
        }
    }

    #[must_use]
    pub fn data_dir(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.data_dir);
        self
    }

    #[must_use]
    pub fn wal_dir(mut self, path: &Path) -> Self {
        self.wal_dir = Some(path.to_owned());
        self
    }

    /// Serves clients over TLS and requires a client certificate.
    #[must_use]
    pub fn tls(mut self, tls: &Mutual) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Adds a setting by the name of its flag, such as `snapshot-count`.
    #[must_use]
    pub fn set(mut self, flag: &str, value: impl Into<String>) -> Self {
        self.settings.set(flag, value);
        self
    }

    #[must_use]
    pub fn config_source(mut self, config_source: ConfigSource) -> Self {
        self.config_source = config_source;
        self
    }

    #[must_use]
    pub fn inside(mut self, namespaces: Namespaces) -> Self {
        self.namespaces = Some(namespaces);
        self
    }

    #[must_use]
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = readiness;
        self
    }

    /// Runs it as another user, which must be able to read the binary and write to the directory.
    #[must_use]
    pub fn as_user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Starts it in these cgroups, which must outlive it.
    #[must_use]
    pub fn in_groups(mut self, groups: &[&Cgroup]) -> Self {
        self.groups.extend(groups.iter().map(|group| group.path().to_owned()));
        self
    }

    /// Cancels its waits through this flag.
    #[must_use]
    pub fn cancel_with(mut self, stop: &Cancel) -> Self {
        self.stop = stop.clone();
        self
    }

    /// Starts the member on two free ports and waits until it is ready.
    pub fn start(self) -> anyhow::Result<Etcd> {
        let client = match &self.tls {
            Some(tls) => Endpoint::tls(free_address()?, &tls.authority, &tls.client)?,
            None => Endpoint::plain(free_address()?),
        };
        let settings = self.complete_settings(&client, free_address()?);
        let mut member = self;
        member.settings = settings;
        let (child, pid) = member.spawn()?;
        let mut etcd = Etcd { member, client, child, pid };
        etcd.wait_until_ready()?;
        Ok(etcd)
    }

    /// Adds the settings that every member needs; explicit settings take precedence.
    fn complete_settings(&self, client: &Endpoint, peer: SocketAddr) -> Settings {
        let peer_url = format!("http://{peer}");
        let mut settings = Settings::default();
        settings.set("name", self.name.as_str());
        settings.set("data-dir", self.path_inside(&self.data_dir));
        if let Some(wal_dir) = &self.wal_dir {
            settings.set("wal-dir", self.path_inside(wal_dir));
        }
        settings.set("listen-client-urls", client.url());
        settings.set("advertise-client-urls", client.url());
        settings.set("listen-peer-urls", peer_url.as_str());
        settings.set("initial-advertise-peer-urls", peer_url.as_str());
        settings.set("initial-cluster", format!("{}={peer_url}", self.name));
        if let Some(tls) = &self.tls {
            settings.set("cert-file", self.path_inside(&tls.server.certificate));
            settings.set("key-file", self.path_inside(&tls.server.key));
            settings.set("trusted-ca-file", self.path_inside(&tls.authority));
            settings.set("client-cert-auth", "true");
        }
        settings.extend(&self.settings);
        settings
    }

    /// Returns a path as the member sees it in its mount namespace.
    fn path_inside(&self, path: &Path) -> String {
        let inside = self.namespaces.as_ref().map(|namespaces| namespaces.inside_path(path));
        inside.unwrap_or_else(|| path.to_owned()).display().to_string()
    }

    /// Returns the name that the kernel will use for the process: the first 15 bytes of the file name.
    fn comm(&self) -> String {
        let name = self.binary.file_name().unwrap_or_default().to_string_lossy();
        name.chars().take(15).collect()
    }

    fn spawn(&self) -> anyhow::Result<(Child, u32)> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open {}", self.log.display()))?;
        let mut words: Vec<_> = self.namespaces.iter().flat_map(Namespaces::prefix).collect();
        words.push(self.binary.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        match self.config_source {
            ConfigSource::Flags => _ = command.args(self.settings.flags()),
            ConfigSource::Environment => _ = command.envs(self.settings.environment()),
            ConfigSource::File => {
                let file = self.log.with_extension("yaml");
                fs::write(&file, self.settings.file())
                    .with_context(|| format!("cannot write {}", file.display()))?;
                command.arg(format!("--config-file={}", self.path_inside(&file)));
            }
        }
        // A separate process group: Ctrl-C reaches only the test, which then stops etcd in order.
        command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log).process_group(0);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        for group in &self.groups {
            cgroup::enter(group, &mut command)?;
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", words[0]))?;
        match self.wait_for_process(&mut child) {
            Ok(pid) => Ok((child, pid)),
            Err(error) => {
                child.kill().context("cannot kill a child")?;
                child.wait().context("cannot wait for a child")?;
                Err(error)
            }
        }
    }

    /// Returns the pid of etcd itself, which may be a descendant of the started process.
    fn wait_for_process(&self, child: &mut Child) -> anyhow::Result<u32> {
        let comm = self.comm();
        let found = self.stop.wait_for(START_LIMIT, || {
            if let Some(status) = child.try_wait()? {
                bail!("{}", self.ended_early(status));
            }
            Ok(process::named_below(child.id(), &comm))
        })?;
        found.with_context(|| format!("cannot find a process `{comm}` below pid {}", child.id()))
    }

    fn ended_early(&self, status: ExitStatus) -> String {
        let tail = process::tail(&self.log, TAIL_LINES);
        format!("cannot start etcd {}: it ended with {}; {tail}", self.name, process::describe(status))
    }
}

/// A running member. Stopped on drop.
#[derive(Debug)]
pub struct Etcd {
    member: Member,
    client: Endpoint,
    child: Child,
    pid: u32,
}

/// etcd's own counts of its two disk metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Observations {
    pub wal_fsync: u64,
    pub backend_commit: u64,
}

#[cfg(feature = "harness")]
impl Observations {
    /// Reads them from an etcd.
    pub fn of(etcd: &Endpoint) -> anyhow::Result<Self> {
        let metrics = Metrics::parse(&etcd.get("/metrics")?.text()?)?;
        let count = |name: &str| {
            let value = metrics.value(name, &[]).with_context(|| format!("cannot find {name}"))?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of events")]
            let count = value as u64;
            anyhow::Ok(count)
        };
        Ok(Self {
            wal_fsync: count("etcd_disk_wal_fsync_duration_seconds_count")?,
            backend_commit: count("etcd_disk_backend_commit_duration_seconds_count")?,
        })
    }
}

impl Etcd {
    pub fn name(&self) -> &str {
        &self.member.name
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn data_dir(&self) -> &Path {
        &self.member.data_dir
    }

    pub fn log(&self) -> &Path {
        &self.member.log
    }

    /// Returns the client endpoint, reached from the member's own network namespace if it has one.
    pub fn endpoint(&self) -> Endpoint {
        match &self.member.namespaces {
            Some(_) => self.client.clone().in_network(format!("/proc/{}/ns/net", self.pid).into()),
            None => self.client.clone(),
        }
    }

    #[cfg(feature = "harness")]
    pub fn metrics(&self) -> anyhow::Result<Metrics> {
        Metrics::parse(&self.endpoint().get("/metrics")?.text()?)
    }

    #[cfg(feature = "harness")]
    pub fn observations(&self) -> anyhow::Result<Observations> {
        Observations::of(&self.endpoint())
    }

    /// Returns its settings as the text of a configuration file.
    pub fn settings_file(&self) -> String {
        self.member.settings.file()
    }

    /// Defragments: etcd rewrites its database without holes, in `db.tmp.*`.
    pub fn defragment(&self) -> anyhow::Result<()> {
        self.endpoint().post("/v3/maintenance/defragment", "{}".to_owned())?.text()?;
        Ok(())
    }

    /// Compacts all revisions except the last, so that defragmentation has work to do.
    pub fn compact(&self) -> anyhow::Result<()> {
        let status = self.endpoint().post("/v3/maintenance/status", "{}".to_owned())?.text()?;
        let status: serde_json::Value =
            serde_json::from_str(&status).context("cannot parse etcd's status")?;
        let revision = status["header"]["revision"].as_str().context("cannot find etcd's revision")?;
        let body = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        self.endpoint().post("/v3/kv/compaction", body)?.text()?;
        Ok(())
    }

    /// Returns the number of WAL rotations: the highest segment number, where the first is 0.
    pub fn rotations(&self) -> anyhow::Result<u64> {
        let wal_dir = self.member.wal_dir.clone().unwrap_or_else(|| self.member.data_dir.join("member/wal"));
        let names = names_with(&wal_dir, "wal")?;
        let numbers = names.iter().filter_map(|name| name.split('-').next());
        numbers.flat_map(|hex| u64::from_str_radix(hex, 16)).max().context("cannot find a WAL segment")
    }

    /// Returns the number of raft snapshots; etcd takes one every `snapshot-count` entries.
    pub fn snapshots(&self) -> anyhow::Result<usize> {
        Ok(names_with(&self.member.data_dir.join("member/snap"), "snap")?.len())
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        process::send(self.pid, Signal::KILL)?;
        self.child.wait().context("cannot wait for etcd")?;
        Ok(())
    }

    /// Stops the process in order, or with SIGKILL if that takes too long.
    pub fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        process::end(&mut self.child, self.pid, STOP_LIMIT)
    }

    /// Starts it again with the same data and ports, after it was stopped or killed.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_none() {
            bail!("cannot restart etcd {} while it runs", self.member.name);
        }
        (self.child, self.pid) = self.member.spawn()?;
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let endpoint = self.endpoint();
        let (member, child) = (&self.member, &mut self.child);
        let mut last = String::new();
        let ready = member.stop.wait_for(START_LIMIT, || {
            if let Some(status) = child.try_wait()? {
                bail!("{}", member.ended_early(status));
            }
            if member.readiness == Readiness::Listening {
                return Ok(endpoint.listens().then_some(()));
            }
            match endpoint.get("/health").and_then(crate::machine::http::Response::text) {
                Ok(text) if text.contains(r#""health":"true""#) => return Ok(Some(())),
                Ok(text) => last = text,
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        })?;
        ready.with_context(|| {
            let tail = process::tail(&member.log, TAIL_LINES);
            format!("etcd {} is not healthy after {START_LIMIT:?}: {last}; {tail}", member.name)
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("cannot stop etcd {}: {error:#}", self.member.name);
        }
    }
}

/// Returns the names of the files in a directory with this extension.
fn names_with(directory: &Path, extension: &str) -> anyhow::Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let files = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    Ok(files.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}
