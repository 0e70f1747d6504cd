//! podman with a store and settings of its own, so that nobody's images are touched and no machine's settings matter.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::machine::command;
use crate::machine::requirements::Need;

/// What it takes. Where control groups are of both versions, crun refuses, so it is runc; what holds a pod together is catatonit.
pub const NEEDS: [Need; 4] = [
    Need::Tool("podman", "podman"),
    Need::Tool("runc", "runc"),
    Need::Tool("catatonit", "catatonit"),
    Need::Tool("tar", "tar"),
];

/// Podman asks for more files and processes than a machine may have to give.
const SETTINGS: &str = r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pidns = "PIDNS"

[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"#;

/// A store for images, containers, pods and secrets. What is in it has to be removed before its directory is.
#[derive(Clone, Debug)]
pub struct Podman {
    directory: PathBuf,
}

impl Podman {
    /// Makes a store in `directory`, whose path has to be short.
    pub fn create(directory: &Path) -> anyhow::Result<Self> {
        Self::with(directory, "private")
    }

    /// Makes one whose containers see the processes of the host, as pods with `hostPID` do: podman 4.3 overlooks that.
    pub fn create_for_host_pid(directory: &Path) -> anyhow::Result<Self> {
        Self::with(directory, "host")
    }

    fn with(directory: &Path, pidns: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let settings = directory.join("containers.conf");
        fs::write(&settings, SETTINGS.replace("PIDNS", pidns)).context("cannot write podman's settings")?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Returns the words that call it.
    pub fn words(&self) -> Vec<String> {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let settings = format!("CONTAINERS_CONF={}", path("containers.conf"));
        let words = ["env", &settings, "podman", "--root", &path("store"), "--runroot", &path("run")];
        words.into_iter().chain(["--storage-driver=vfs"]).map(str::to_owned).collect()
    }

    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let words = self.words();
        let words: Vec<_> = words.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        command::run(words[0], &words[1..])
    }

    /// Returns the pid of a container's process, as the host has it.
    pub fn pid(&self, container: &str) -> anyhow::Result<u32> {
        let pid = self.run(&["inspect", "--format={{.State.Pid}}", container])?;
        pid.parse().with_context(|| format!("cannot take `{pid}` for a pid"))
    }
}
