//! Builds a container image with nothing but the binary in it, and its bill of materials.

mod engine;
mod notices;
mod parts;
mod sbom;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};
use std::{env, io};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::engine::Engine;
use self::parts::Parts;
use crate::compile;
use crate::process::capture;
use crate::setup::{self, AARCH64_LINKER, AARCH64_TARGET, Scope};

/// The repository of the published image; its tag is the version.
pub const NAME: &str = "ghcr.io/etcd-disk-probe/etcd-disk-probe";

/// An architecture, by its name in image manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    Amd64,
    Arm64,
}

/// The labels of an image.
#[derive(Debug)]
pub struct Description {
    pub version: String,
    pub revision: String,
    /// The time of the commit in seconds since 1970, so that the same source makes the same image.
    pub created: u64,
}

impl Arch {
    fn of_this_machine() -> Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("cannot build an image on {other}; it is for x86_64 and aarch64"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl Description {
    fn of_this_source() -> Result<Self> {
        let git = |arguments: &[&str]| {
            let output = capture(Command::new("git").args(arguments))?;
            Ok::<_, anyhow::Error>(output.trim().to_owned())
        };
        let revision = git(&["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"])?;
        // https://reproducible-builds.org/specs/source-date-epoch/
        let created = match env::var("SOURCE_DATE_EPOCH") {
            Ok(seconds) => seconds,
            Err(_) => git(&["log", "-1", "--format=%ct"])?,
        };
        let created =
            created.parse().with_context(|| format!("cannot read `{created}` as seconds since 1970"))?;
        Ok(Self { version: env!("CARGO_PKG_VERSION").to_owned(), revision, created })
    }

    pub fn created_in_words(&self) -> String {
        humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.created)).to_string()
    }
}

/// Builds the image for each architecture, and writes it and its bill of materials to `output`.
pub fn run(machines: &[Arch], tag: Option<&str>, output: &Path) -> Result<()> {
    let engine = Engine::find()?;
    let description = Description::of_this_source()?;
    let own = [Arch::of_this_machine()?];
    for &arch in if machines.is_empty() { &own } else { machines } {
        build(arch, &engine, &description, tag.unwrap_or(&description.version), output)
            .with_context(|| format!("cannot make the image for {}", arch.name()))?;
    }
    Ok(())
}

fn build(arch: Arch, engine: &Engine, description: &Description, tag: &str, output: &Path) -> Result<()> {
    let (binary, target, compiler, toolchain) = if arch == Arch::of_this_machine()? {
        let setup = setup::run(Scope::Machine)?;
        compile::all(&setup.toolchain)?;
        (PathBuf::from(compile::BINARY), compile::host()?, "cc", setup.toolchain)
    } else if arch == Arch::Arm64 {
        let setup = setup::run(Scope::Everything)?;
        compile::aarch64(&setup)?;
        (PathBuf::from(compile::BINARY_AARCH64), AARCH64_TARGET.to_owned(), AARCH64_LINKER, setup.toolchain)
    } else {
        bail!("this machine builds for itself and for arm64");
    };
    fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
    let stem = format!("etcd-disk-probe-{tag}-{}", arch.name());
    let file = |extension: &str| output.join(format!("{stem}.{extension}"));

    let parts = Parts::find(&target, compiler, &toolchain)?;
    let sbom = sbom::of(&parts, description, arch, &binary)?;
    let path = file("cdx.json");
    fs::write(&path, sbom).with_context(|| format!("cannot write {}", path.display()))?;

    let root = file("root");
    lay_out(&root, &binary, &notices::of(&parts)?)?;
    let built = engine.build(arch, description, &format!("{NAME}:{tag}"), &root, &file("tar"))?;
    remove(&root)?;
    println!("image      {NAME}:{tag} for linux/{}, made by {}", arch.name(), engine.name());
    println!("size       {} bytes", built.size);
    println!("digest     {}", built.digest);
    println!("archive    {}", file("tar").display());
    println!("materials  {}", path.display());
    Ok(())
}

/// Lays out the image's root directory. The modes of its files do not depend on the umask.
fn lay_out(root: &Path, binary: &Path, notices: &str) -> Result<()> {
    remove(root)?;
    let licences = root.join("licenses");
    let entry = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode));
    let made = fs::create_dir_all(&licences).and_then(|()| {
        entry(root, 0o755)?;
        entry(&licences, 0o755)?;
        fs::copy(binary, root.join("etcd-disk-probe"))?;
        entry(&root.join("etcd-disk-probe"), 0o755)?;
        for name in ["LICENSE-MIT", "LICENSE-APACHE"] {
            fs::copy(name, licences.join(name))?;
            entry(&licences.join(name), 0o644)?;
        }
        let path = licences.join("THIRD-PARTY");
        fs::write(&path, notices)?;
        entry(&path, 0o644)
    });
    made.with_context(|| format!("cannot lay out the image in {}", root.display()))
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
