//! Gets whatever is missing, says what it does, and does nothing when all is there.

mod apt;
mod cache;
mod etcd;
mod packages;
mod sources;
mod toolchain;

use std::path::PathBuf;

use anyhow::Result;

use self::cache::Cache;
pub use self::toolchain::Toolchain;

/// What the other tasks need of the machine.
pub struct Setup {
    pub toolchain: Toolchain,
    cache: Cache,
}

impl Setup {
    /// Returns the etcd that the demo runs.
    pub fn etcd(&self) -> Result<PathBuf> {
        etcd::newest(&self.cache)
    }

    pub fn cache_directory(&self) -> PathBuf {
        self.cache.path("")
    }
}

pub fn run() -> Result<Setup> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    etcd::setup(&cache)?;
    // The compiler says which LLVM must be installed, so that one call of apt-get installs it all.
    let wanted = toolchain::prepare(&cache)?;
    packages::setup(&wanted.packages())?;
    let toolchain = wanted.finish(&cache)?;
    println!("setup: eBPF toolchain: {}", toolchain.description);
    Ok(Setup { toolchain, cache })
}
