//! An etcd process in a container with its own image, root file system, network and certificates.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::etcd::certs::Mutual;
use crate::machine::cancel::Cancel;
use crate::machine::command;
use crate::machine::http::Endpoint;
use crate::machine::podman::Podman;

/// The name of the image. Everything in it except the certificates is etcd.
const IMAGE: &str = "localhost/etcd-disk-probe-test";

/// The time limit for etcd to become healthy.
const START_LIMIT: Duration = Duration::from_mins(2);

/// The client address. In a separate network namespace every port is free.
const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2379);

/// A running container. Removed on drop.
#[derive(Debug)]
pub struct Container {
    podman: Podman,
    name: String,
    pid: u32,
    endpoint: Endpoint,
}

impl Container {
    /// Builds an image from scratch with an etcd and the certificates to connect to it, and starts it with
    /// mutual TLS.
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
        let podman = Podman::create(directory)?;
        let archive = directory.join("image.tar").display().to_string();
        command::run("tar", &["-C", &image.display().to_string(), "-cf", &archive, "."])?;
        podman.run(&["import", "--quiet", &archive, IMAGE])?;
        let url = format!("--listen-client-urls=https://{CLIENT}");
        let advertised = format!("--advertise-client-urls=https://{CLIENT}");
        let run = ["run", "--detach", "--network=none", "--name", name];
        let member = format!("--name={name}");
        let etcd = [IMAGE, "/bin/etcd", &member, "--data-dir=/data", &url, &advertised];
        let files = [
            "--cert-file=/tls/server.pem",
            "--key-file=/tls/server-key.pem",
            "--trusted-ca-file=/tls/ca.pem",
        ];
        podman.run(&[&run[..], &etcd, &files, &["--client-cert-auth"]].concat())?;
        let pid = podman.pid(name)?;
        let endpoint = Endpoint::tls(CLIENT, &tls.authority, &tls.client)?;
        let endpoint = endpoint.in_network(format!("/proc/{pid}/ns/net").into());
        // From here on these files exist only inside the container.
        fs::remove_dir_all(&image).context("cannot remove the image's files")?;
        fs::remove_file(&archive).context("cannot remove the image's archive")?;
        let container = Self { podman, name: name.to_owned(), pid, endpoint };
        container.wait_until_healthy()?;
        Ok(container)
    }

    /// Returns its name, which is also the name of the etcd member.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the client endpoint, reached from within the container's network.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    fn wait_until_healthy(&self) -> anyhow::Result<()> {
        let healthy = Cancel::default().wait_for(START_LIMIT, || {
            let answer = self.endpoint.get("/health").and_then(crate::machine::http::Response::text);
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
