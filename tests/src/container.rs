//! An etcd in a container: image, root file system, network and certificates are its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::certs::Mutual;
use crate::command;
use crate::http::Endpoint;
use crate::needs::Need;
use crate::stop::Stop;

/// What it takes. Where control groups are of both versions, crun refuses, so it is runc.
pub const PODMAN: [Need; 3] =
    [Need::Tool("podman", "podman"), Need::Tool("runc", "runc"), Need::Tool("tar", "tar")];

/// Everything in the image but the certificates is etcd.
const IMAGE: &str = "localhost/etcd-disk-probe-test";

/// How long etcd may take until it is healthy.
const START_LIMIT: Duration = Duration::from_mins(1);

/// In a network of its own every port is free.
const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2379);

/// A running container. Removed on drop.
#[derive(Debug)]
pub struct Container {
    podman: Podman,
    name: String,
    pid: u32,
    endpoint: Endpoint,
}

/// Calls podman with a store of its own, so that nobody's images are touched.
#[derive(Debug)]
struct Podman {
    directory: PathBuf,
}

impl Podman {
    fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let (root, run) = (self.directory.join("store"), self.directory.join("run"));
        let (root, run) = (root.display().to_string(), run.display().to_string());
        let own = ["--root", &root, "--runroot", &run, "--storage-driver=vfs", "--cgroup-manager=cgroupfs"];
        command::run("podman", &[&own[..], &["--runtime=runc"], arguments].concat())
    }
}

impl Container {
    /// Builds an image from nothing with an etcd and what it takes to talk to it, and starts it under mutual TLS.
    ///
    /// # Errors
    ///
    /// When podman fails, or etcd is not healthy in time.
    pub fn start(binary: &Path, name: &str, directory: &Path) -> anyhow::Result<Self> {
        let image = directory.join("image");
        let tls = image.join("tls");
        fs::create_dir_all(&tls).context("cannot make the image")?;
        let tls = Mutual::create(&tls)?;
        install(binary, &image)?;
        let podman = Podman { directory: directory.to_owned() };
        let archive = directory.join("image.tar").display().to_string();
        command::run("tar", &["-C", &image.display().to_string(), "-cf", &archive, "."])?;
        podman.run(&["import", "--quiet", &archive, IMAGE])?;
        let url = format!("--listen-client-urls=https://{CLIENT}");
        let advertised = format!("--advertise-client-urls=https://{CLIENT}");
        let run = ["run", "--detach", "--network=none", "--name", name];
        // Podman asks for more files and processes than a machine may have to give.
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
        let member = format!("--name={name}");
        let etcd = [IMAGE, "/bin/etcd", &member, "--data-dir=/data", &url, &advertised];
        let files = [
            "--cert-file=/tls/server.pem",
            "--key-file=/tls/server-key.pem",
            "--trusted-ca-file=/tls/ca.pem",
        ];
        podman.run(&[&run[..], &limits, &etcd, &files, &["--client-cert-auth"]].concat())?;
        let pid = podman.run(&["inspect", "--format={{.State.Pid}}", name])?;
        let pid: u32 = pid.parse().with_context(|| format!("cannot take `{pid}` for a pid"))?;
        let endpoint = Endpoint::tls(CLIENT, &tls.authority, &tls.client)?;
        let endpoint = endpoint.in_network(format!("/proc/{pid}/ns/net").into());
        // What is inside is now only there.
        fs::remove_dir_all(&image).context("cannot remove the image's files")?;
        fs::remove_file(&archive).context("cannot remove the image's archive")?;
        let container = Self { podman, name: name.to_owned(), pid, endpoint };
        container.wait_until_healthy()?;
        Ok(container)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns where its clients go, from within its network.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    fn wait_until_healthy(&self) -> anyhow::Result<()> {
        let healthy = Stop::default().wait_for(START_LIMIT, || {
            let answer = self.endpoint.get("/health").and_then(crate::http::Response::text);
            Ok(answer.is_ok_and(|text| text.contains(r#""health":"true""#)).then_some(()))
        })?;
        healthy.with_context(|| {
            let log = self.podman.run(&["logs", "--tail=5", &self.name]).unwrap_or_default();
            format!("etcd in container {} is not healthy after {START_LIMIT:?}: {log}", self.name)
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Err(error) = self.podman.run(&["rm", "--force", "--time=5", &self.name]) {
            eprintln!("cannot remove container {}: {error:#}", self.name);
        }
    }
}

/// Copies a program and the libraries that it is linked with.
fn install(binary: &Path, image: &Path) -> anyhow::Result<()> {
    let copy = |from: &Path, to: &Path| -> anyhow::Result<()> {
        let folder = to.parent().context("a file is in a directory")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    };
    copy(binary, &image.join("bin/etcd"))?;
    let linked = command::run("ldd", &[binary]).unwrap_or_default();
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(library), &image.join(library.trim_start_matches('/')))?;
    }
    Ok(())
}
