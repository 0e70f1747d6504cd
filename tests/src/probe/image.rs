//! The image from `cargo xtask image` and its contents.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::machine::command;
use crate::machine::podman::Podman;

/// One image for one architecture, as a file.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name of the image after loading.
    pub name: String,
    pub digest: String,
    pub size: u64,
    pub archive: PathBuf,
    /// The file of its SBOM.
    pub sbom: PathBuf,
}

impl Image {
    /// Builds it for these architectures in `directory`.
    pub fn build(directory: &Path, tag: &str, machines: &[&str]) -> anyhow::Result<Vec<Self>> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut xtask = Command::new(cargo);
        xtask.args(["xtask", "image", "--tag", tag, "--output"]).arg(directory);
        xtask.args(machines.iter().flat_map(|machine| ["--arch", machine]));
        // Flags of the user's environment would cause a complete rebuild.
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().ends_with("RUSTFLAGS")) {
            xtask.env_remove(name);
        }
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests are in a workspace")?;
        let output =
            xtask.current_dir(workspace).stdin(Stdio::null()).output().context("cannot start cargo")?;
        if !output.status.success() {
            bail!("cannot make the image: {}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let field = |name: &str| -> Vec<&str> {
            let of = |line: &'_ str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with("  "));
            text.lines()
                .filter(|line| of(line))
                .filter_map(|line| line[name.len()..].split_whitespace().next())
                .collect()
        };
        let [names, sizes, digests, archives, sboms] =
            ["image", "size", "digest", "archive", "materials"].map(field);
        ensure!(names.len() == machines.len(), "cannot find the images in the output of cargo xtask: {text}");
        let image = |index: usize| {
            Ok(Self {
                name: names[index].to_owned(),
                size: sizes[index].parse().context("cannot read the size")?,
                digest: digests[index].to_owned(),
                archive: workspace.join(archives[index]),
                sbom: workspace.join(sboms[index]),
            })
        };
        (0..machines.len()).map(image).collect()
    }

    /// Loads it into podman's store.
    pub fn load(&self, podman: &Podman) -> anyhow::Result<()> {
        podman.run(&["load", "--quiet", "--input", &self.archive.display().to_string()]).map(drop)
    }

    /// Returns a JSON file of the archive: `index.json`, or one named by its digest.
    pub fn json(&self, name: &str) -> anyhow::Result<Value> {
        let name = blob(name);
        let text = command::run("tar", &["-xOf", &self.archive.display().to_string(), &name])?;
        serde_json::from_str(&text).with_context(|| format!("cannot read {name}"))
    }

    pub fn manifest(&self) -> anyhow::Result<Value> {
        self.json(&self.digest)
    }

    /// Unpacks its files as a container sees them.
    pub fn unpack(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let manifest = self.manifest()?;
        for layer in manifest["layers"].as_array().context("layers are a list")? {
            let digest = layer["digest"].as_str().context("a layer has a digest")?;
            command::run(
                "tar",
                &[
                    "-xf",
                    &self.archive.display().to_string(),
                    "-C",
                    &directory.display().to_string(),
                    &blob(digest),
                ],
            )?;
            let packed = directory.join(blob(digest));
            command::run(
                "tar",
                &["-xf", &packed.display().to_string(), "-C", &directory.display().to_string()],
            )?;
        }
        fs::remove_dir_all(directory.join("blobs")).context("cannot remove the layers")
    }
}

/// Returns the path of a digest in an archive.
fn blob(digest: &str) -> String {
    digest.strip_prefix("sha256:").map_or_else(|| digest.to_owned(), |hash| format!("blobs/sha256/{hash}"))
}
