//! podman with a separate store and configuration, so that it changes none of the user's images and depends
//! on no machine settings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::machine::command;
use crate::machine::requirements::Need;

/// The required tools. crun fails on hosts with cgroups of both versions, hence runc; catatonit is the init
/// process of a pod.
pub const NEEDS: [Need; 4] = [
    Need::Tool("podman", "podman"),
    Need::Tool("runc", "runc"),
    Need::Tool("catatonit", "catatonit"),
    Need::Tool("tar", "tar"),
];

/// By default podman sets limits for files and processes that may exceed those of the machine.
const SETTINGS: &str = r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pidns = "PIDNS"

[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"#;

/// A store for images, containers, pods and secrets. Its content must be removed before its directory.
#[derive(Clone, Debug)]
pub struct Podman {
    directory: PathBuf,
}

impl Podman {
    /// Creates a store in `directory`, whose path must be short.
    pub fn create(directory: &Path) -> anyhow::Result<Self> {
        Self::with(directory, "private")
    }

    /// Creates a store whose containers use the host's pid namespace, as pods with `hostPID` do: podman 4.3
    /// ignores that field.
    pub fn create_for_host_pid(directory: &Path) -> anyhow::Result<Self> {
        Self::with(directory, "host")
    }

    fn with(directory: &Path, pidns: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let settings = directory.join("containers.conf");
        fs::write(&settings, SETTINGS.replace("PIDNS", pidns)).context("cannot write podman's settings")?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Returns the command prefix.
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

    /// Returns the pid of a container's process in the host's pid namespace.
    pub fn pid(&self, container: &str) -> anyhow::Result<u32> {
        let pid = self.run(&["inspect", "--format={{.State.Pid}}", container])?;
        pid.parse().with_context(|| format!("cannot parse the pid `{pid}`"))
    }
}
