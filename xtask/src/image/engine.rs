//! The program that builds images on this machine: podman, or docker where there is no podman. An image of
//! files alone is built without running anything in it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Arch, Description};
use crate::process::{capture, find, run};

const CONTAINERFILE: &str = "deploy/image/Containerfile";

#[derive(Debug)]
pub enum Engine {
    Podman(PathBuf),
    Docker(PathBuf),
}

/// An image that has been built.
#[derive(Debug)]
pub struct Built {
    /// Bytes of all its files.
    pub size: u64,
    /// Of the manifest, which is the digest in a registry; docker before version 25 reports the digest of the
    /// configuration.
    pub digest: String,
}

impl Engine {
    pub fn find() -> Result<Self> {
        if let Some(podman) = find("podman") {
            return Ok(Self::Podman(podman));
        }
        let Some(docker) = find("docker") else {
            bail!("cannot find podman or docker; `apt-get install podman` gets one");
        };
        Ok(Self::Docker(docker))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Podman(_) => "podman",
            Self::Docker(_) => "docker",
        }
    }

    /// Builds an image of the files below `root`, and writes it to `archive`.
    pub fn build(
        &self,
        arch: Arch,
        description: &Description,
        name: &str,
        root: &Path,
        archive: &Path,
    ) -> Result<Built> {
        let platform = format!("linux/{}", arch.name());
        let given = [
            format!("VERSION={}", description.version),
            format!("REVISION={}", description.revision),
            format!("CREATED={}", description.created_in_words()),
        ];
        let given: Vec<_> = given.iter().flat_map(|argument| ["--build-arg", argument]).collect();
        let epoch = description.created.to_string();
        let describe = |command: &mut Command| {
            command.args([
                "build",
                "--quiet",
                "--platform",
                &platform,
                "--file",
                CONTAINERFILE,
                "--tag",
                name,
            ]);
            command.args(&given).arg(root);
        };
        // Podman would append to an existing archive.
        if archive.exists() {
            fs::remove_file(archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        }
        match self {
            Self::Podman(podman) => {
                let store = Store::create(podman)?;
                let mut build = store.podman();
                describe(&mut build);
                // One layer, without podman's version and without the time of the build.
                build.args(["--layers=false", "--identity-label=false", "--timestamp", &epoch]);
                run(&mut build)?;
                let size = size(&capture(store.podman().args(["image", "inspect", name]))?)?;
                run(store
                    .podman()
                    .args(["save", "--quiet", "--format=oci-archive", "--output"])
                    .arg(archive)
                    .arg(name))?;
                let index = capture(Command::new("tar").arg("-xOf").arg(archive).arg("index.json"))?;
                let index: Value = serde_json::from_str(&index).context("cannot read the archive's index")?;
                let digest =
                    index["manifests"][0]["digest"].as_str().context("cannot find the image's digest")?;
                Ok(Built { size, digest: digest.to_owned() })
            }
            Self::Docker(docker) => {
                let mut build = Command::new(docker);
                describe(&mut build);
                // BuildKit takes the times of all files from the first variable, and records the builder
                // unless the second is set.
                build.env("SOURCE_DATE_EPOCH", &epoch).env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
                run(&mut build)?;
                let about = capture(Command::new(docker).args(["image", "inspect", name]))?;
                run(Command::new(docker).args(["save", "--output"]).arg(archive).arg(name))?;
                let digest: Value =
                    serde_json::from_str(&about).context("cannot read the output of docker")?;
                let digest = digest[0]["Id"].as_str().context("cannot find the image's digest")?.to_owned();
                Ok(Built { size: size(&about)?, digest })
            }
        }
    }
}

fn size(about: &str) -> Result<u64> {
    let about: Value = serde_json::from_str(about).context("cannot read the description of the image")?;
    about[0]["Size"].as_u64().context("cannot find the image's size")
}

/// A store of podman for one build, independent of the user's store and its configuration. Removed on drop.
struct Store<'a> {
    podman: &'a Path,
    directory: PathBuf,
}

impl<'a> Store<'a> {
    /// The run root of podman must not have more than 50 characters, so it is not below the workspace.
    fn create(podman: &'a Path) -> Result<Self> {
        let directory = env::temp_dir().join(format!("probe-image-{}", std::process::id()));
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self { podman, directory })
    }

    fn podman(&self) -> Command {
        let mut podman = Command::new(self.podman);
        podman
            .arg("--root")
            .arg(self.directory.join("images"))
            .arg("--runroot")
            .arg(self.directory.join("run"));
        // Plain directories are the only kind of store without requirements on the file system below.
        podman.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"]);
        podman
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("xtask: cannot remove {}: {error}", self.directory.display());
        }
    }
}
