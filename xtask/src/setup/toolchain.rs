//! The compiler and the linker of the kernel programs, which differ from the compiler of user space: building
//! `core` for the eBPF target requires an unstable flag, the library's source, and a linker with the
//! compiler's LLVM.
//!
//! Nightly with a `bpf-linker` on PATH is used where both exist. Otherwise Debian's compiler is unpacked in
//! the cache, and `bpf-linker` is built next to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Architecture};
use super::cache::Cache;
use super::{install, sources};
use crate::process::{capture, cargo, clean, find, run};

const BPF_LINKER: &str = "0.13.0";

/// The toolchain in use, as lines of `FIELD VALUE`, so that the next setup does not search for it.
const RECORD: &str = "toolchain";

/// A compiler and a linker that fit each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub description: String,
    pub rustc: PathBuf,
    pub linker: PathBuf,
    /// `None` for the pinned one.
    cargo: Option<PathBuf>,
    /// The directory of the compiler's libraries, if it does not find them by itself.
    libraries: Option<PathBuf>,
}

/// The result of [`prepare`]: a toolchain, or a compiler whose linker is to be built.
pub enum Wanted {
    Ready(Toolchain),
    Linker {
        /// Where the compiler is or will be unpacked.
        root: PathBuf,
        version: String,
        /// The package of its standard library.
        library: String,
        llvm: String,
        apt: Apt,
    },
}

impl Toolchain {
    /// Returns cargo set up to build with this toolchain.
    pub fn cargo(&self) -> Command {
        let mut command = self.cargo.as_ref().map_or_else(cargo, clean);
        command
            // With it, nightly's cargo would request the pinned compiler from rustup.
            .env_remove("RUSTUP_TOOLCHAIN")
            .env("RUSTC", &self.rustc)
            // The flags of `build-std` are unstable, and Debian's compiler is a stable one.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Returns the version of its compiler: `rustc 1.96.0 (…)`.
    pub fn version(&self) -> Result<String> {
        capture(self.compiler().arg("--version"))
    }

    /// Returns the directory of its libraries, and of their source.
    pub fn sysroot(&self) -> Result<PathBuf> {
        Ok(capture(self.compiler().args(["--print", "sysroot"]))?.trim().into())
    }

    /// Returns the program that strips the kernel object, if it is installed: it is part of LLVM, not of
    /// Rust.
    pub fn objcopy(&self) -> Option<PathBuf> {
        let about = capture(self.compiler().arg("-vV")).ok();
        let beside =
            about.as_deref().and_then(llvm_major).map(|llvm| llvm_prefix(llvm).join("bin/llvm-objcopy"));
        beside.filter(|path| path.exists()).or_else(|| find("llvm-objcopy")).or_else(|| find("rust-objcopy"))
    }

    /// Returns the compiler, able to find its own libraries.
    fn compiler(&self) -> Command {
        let mut rustc = Command::new(&self.rustc);
        if let Some(libraries) = &self.libraries {
            rustc.env("LD_LIBRARY_PATH", libraries);
        }
        rustc
    }

    /// Returns whether both programs still run: packages may be removed, and caches cleaned.
    fn works(&self) -> bool {
        let source = self.sysroot().is_ok_and(|sysroot| core_source(&sysroot).is_file());
        source && capture(Command::new(&self.linker).arg("--version")).is_ok()
    }

    fn to_text(&self) -> String {
        let path = |path: &Path| path.display().to_string();
        let fields = [
            ("description", Some(self.description.clone())),
            ("rustc", Some(path(&self.rustc))),
            ("linker", Some(path(&self.linker))),
            ("cargo", self.cargo.as_deref().map(path)),
            ("libraries", self.libraries.as_deref().map(path)),
        ];
        let lines = fields.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }

    fn from_text(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once(' '))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        Some(Self {
            description: field("description")?.to_owned(),
            rustc: field("rustc")?.into(),
            linker: field("linker")?.into(),
            cargo: field("cargo").map(PathBuf::from),
            libraries: field("libraries").map(PathBuf::from),
        })
    }
}

impl Wanted {
    /// Unpacks the compiler, unless an earlier setup has. It runs only once its LLVM is installed.
    pub fn unpack(&self, cache: &Cache) -> Result<()> {
        match self {
            Self::Linker { root, version, library, apt, .. } if !root.is_dir() => {
                println!("setup: unpacking Debian's rustc {version}");
                let packages = ["rustc-web", "libstd-rust-web-dev", "rust-web-src", library];
                let packages = packages.map(|package| format!("{package}={version}"));
                cache.fill(&format!("rust-{version}"), |partial| apt.unpack(&packages, partial)).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Returns the system packages that are missing to finish.
    pub fn packages(&self) -> Vec<String> {
        match self {
            Self::Linker { llvm, .. } if !llvm_prefix(llvm).join("lib/libLLVM.so").exists() => {
                vec![format!("llvm-{llvm}-dev")]
            }
            _ => Vec::new(),
        }
    }

    /// Builds the linker if it is missing, and records the toolchain.
    pub fn finish(self, cache: &Cache) -> Result<Toolchain> {
        let toolchain = match self {
            Self::Ready(toolchain) => toolchain,
            Self::Linker { root, version, llvm, .. } => {
                let linker = build_linker(cache, &llvm)?;
                Toolchain {
                    description: format!(
                        "Debian's rustc {version}, bpf-linker {BPF_LINKER} with LLVM {llvm}"
                    ),
                    rustc: root.join("usr/bin/rustc"),
                    linker,
                    cargo: None,
                    libraries: Some(libraries(&root)?),
                }
            }
        };
        if !toolchain.works() {
            bail!("cannot use the eBPF toolchain ({}): it does not run", toolchain.description);
        }
        let text = toolchain.to_text();
        if fs::read_to_string(cache.path(RECORD)).ok().as_ref() != Some(&text) {
            cache.write(RECORD, &text)?;
        }
        Ok(toolchain)
    }
}

/// Finds the toolchain of an earlier setup, or nightly, or Debian's compiler, which remains to be unpacked.
pub fn prepare(cache: &Cache) -> Result<Wanted> {
    let recorded = fs::read_to_string(cache.path(RECORD)).ok().and_then(|text| Toolchain::from_text(&text));
    if let Some(toolchain) = recorded.filter(Toolchain::works) {
        return Ok(Wanted::Ready(toolchain));
    }
    if let Some(toolchain) = nightly() {
        return Ok(Wanted::Ready(toolchain));
    }
    debian(cache).context(
        "cannot get the eBPF toolchain; with rustup, \
         `rustup toolchain install nightly --component rust-src` and a bpf-linker on PATH will do",
    )
}

/// Returns nightly and the linker on PATH, if both exist, or lack only the library's source.
///
/// The user's toolchains are never installed or updated here, and rustup is never killed: interrupted during
/// an update, it leaves a toolchain without a compiler. Its own limits bound the time instead.
fn nightly() -> Option<Toolchain> {
    let linker = find("bpf-linker")?;
    let sysroot =
        capture(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"])).ok()?;
    let sysroot = PathBuf::from(sysroot.trim());
    if !core_source(&sysroot).is_file() {
        println!("setup: adding rust-src to nightly");
        let mut rustup = Command::new("rustup");
        rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
        rustup.env("RUSTUP_DOWNLOAD_TIMEOUT", "30").env("RUSTUP_MAX_RETRIES", "0");
        if let Err(error) = run(&mut rustup) {
            println!("setup: continuing without nightly: {error:#}");
            return None;
        }
    }
    let toolchain = Toolchain {
        description: format!("nightly, {}", linker.display()),
        rustc: sysroot.join("bin/rustc"),
        linker,
        cargo: Some(sysroot.join("bin/cargo")),
        libraries: None,
    };
    toolchain.works().then_some(toolchain)
}

/// Finds the compiler that apt offers; every other name follows from its version.
fn debian(cache: &Cache) -> Result<Wanted> {
    let apt = Apt::update(cache.path("apt-system"), &sources::of_this_system()?, Architecture::Own)?;
    let version = apt.candidate("rustc-web")?.context("cannot find the package rustc-web on this system")?;
    let root = cache.path(&format!("rust-{version}"));
    let libraries = apt.depends("libstd-rust-web-dev", &version)?;
    let library = libraries.into_iter().find(|name| name.starts_with("libstd-rust-web-"));
    let library = library.context("cannot find the library of Debian's rustc")?;
    // The compiler loads LLVM from the system, and runs only after that is installed. Its package names the
    // version.
    let needed = apt.depends(&library, &version)?;
    let llvm = needed.iter().find_map(|name| name.strip_prefix("libllvm"));
    let llvm = llvm.context("cannot find the LLVM version of Debian's rustc")?.to_owned();
    Ok(Wanted::Linker { root, version, library, llvm, apt })
}

/// Builds bpf-linker against the system's LLVM, once for each major version.
fn build_linker(cache: &Cache, llvm: &str) -> Result<PathBuf> {
    let name = format!("bpf-linker-{BPF_LINKER}-llvm-{llvm}");
    let linker = cache.path(&name).join("bin/bpf-linker");
    if !linker.is_file() {
        println!("setup: building bpf-linker {BPF_LINKER} with LLVM {llvm}, a minute or two");
        cache.fill(&name, |partial| {
            // LLVM does the work. Without optimisation, the linker around it compiles in half the time (27 s
            // of CPU time, not 48) and links the same bytes.
            let mut build = install::command("bpf-linker", BPF_LINKER);
            build
                .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
                .arg(partial)
                .env("LLVM_PREFIX", llvm_prefix(llvm));
            run(&mut build)
        })?;
    }
    Ok(linker)
}

fn llvm_prefix(llvm: &str) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

fn core_source(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs")
}

/// Returns the directory of `librustc_driver`, whose name contains the machine's architecture.
fn libraries(root: &Path) -> Result<PathBuf> {
    let directory = root.join("usr/lib");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-linux-gnu")))
        .with_context(|| format!("cannot find the libraries of the compiler in {}", directory.display()))
}

fn llvm_major(about: &str) -> Option<&str> {
    about.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_of_a_compiler() {
        assert_eq!(llvm_major("rustc 1.96.0\nLLVM version: 22.1.8\n"), Some("22"));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None, "a compiler without LLVM");
    }

    #[test]
    fn the_record_reads_back_as_written() {
        let mut toolchain = Toolchain {
            description: "Debian's rustc 1.96.0, with spaces".into(),
            rustc: "/a b/rustc".into(),
            linker: "/l".into(),
            cargo: None,
            libraries: Some("/lib".into()),
        };
        assert_eq!(Toolchain::from_text(&toolchain.to_text()).as_ref(), Some(&toolchain));
        toolchain.cargo = Some("/cargo".into());
        toolchain.libraries = None;
        assert_eq!(Toolchain::from_text(&toolchain.to_text()).as_ref(), Some(&toolchain));
        assert_eq!(Toolchain::from_text("rustc /a\n"), None, "half a record is none");
    }
}
