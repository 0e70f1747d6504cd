//! Builds the kernel programs, and the daemon with them inside.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result};

use crate::process::{capture, cargo, clean, run};
use crate::setup::{AARCH64_LINKER, AARCH64_TARGET, Setup, Toolchain};

/// The kernel programs, where `probe-user/build.rs` expects them.
const OBJECT: &str = "target/ebpf/probe";

/// The daemon as shipped, for this machine.
pub const BINARY: &str = "target/release/etcd-disk-probe";

/// The same for aarch64.
pub const BINARY_AARCH64: &str = "target/aarch64-unknown-linux-gnu/release/etcd-disk-probe";

/// The profile of tests, demo, benchmark, and of the daemon where its size and speed do not matter.
const TESTS: &str = "tests";

/// Builds the daemon for this machine, as shipped.
pub fn all(toolchain: &Toolchain) -> Result<()> {
    ebpf(toolchain)?;
    daemon(&Target::this()?)?;
    copy_binary()
}

/// Builds the daemon for aarch64, as shipped.
///
/// The kernel programs are the same: they are compiled for BPF, not for a CPU.
pub fn aarch64(setup: &Setup) -> Result<()> {
    ebpf(&setup.toolchain)?;
    daemon(&Target::aarch64(setup)?)
}

/// Builds what the gate runs: the daemon as shipped, and the programs for virtual machines of the other
/// architecture.
///
/// Both at the same time: the daemon ends with one thread that optimises it for a minute, and the profiles
/// have directories of their own, which cargo locks one by one.
pub fn for_gate(setup: &Setup) -> Result<()> {
    ebpf(&setup.toolchain)?;
    thread::scope(|threads| {
        let guest = threads.spawn(|| guest(setup));
        daemon(&Target::this()?)?;
        guest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    copy_binary()
}

/// Returns whether an earlier build has left kernel programs, of this source or an older one.
pub fn has_programs() -> bool {
    Path::new(OBJECT).is_file()
}

/// Builds the daemon and the demo with the profile of the tests, and returns their directory.
///
/// One call of cargo for both, so that they share their dependencies.
pub fn demo() -> Result<String> {
    run(&mut demo_build()?)?;
    Ok(format!("target/{}/{TESTS}", host()?))
}

/// Compiles the crates of [`demo`] that do not need the kernel programs, at a low priority.
///
/// The daemon's build script fails without the kernel programs, and cargo continues with all crates that do
/// not depend on it. The build that follows reports any other failure.
pub fn demo_dependencies() {
    let Ok(mut build) = demo_build() else { return };
    build.args(["--keep-going", "--quiet"]);
    let mut lowered = Command::new("nice");
    lowered.arg("-n").arg("10").arg(build.get_program()).args(build.get_args());
    for (name, value) in build.get_envs() {
        match value {
            Some(value) => lowered.env(name, value),
            None => lowered.env_remove(name),
        };
    }
    let _ = lowered.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn demo_build() -> Result<Command> {
    let mut build = for_tests("build")?;
    build.args(["--package", "probe-user", "--bin", "etcd-disk-probe"]);
    build.args(["--package", "probe-tests", "--bin", "demo", "--no-default-features"]);
    Ok(build)
}

/// A target triple with its compiler flags and linker.
struct Target {
    triple: String,
    rustflags: Vec<String>,
    /// Also the C compiler of ring, which has C and assembler in it; `None` for cargo's default.
    linker: Option<&'static str>,
}

impl Target {
    fn this() -> Result<Self> {
        Ok(Self { triple: host()?, rustflags: static_flags()?, linker: None })
    }

    fn aarch64(setup: &Setup) -> Result<Self> {
        let mut rustflags = static_flags()?;
        if let Some(library) = setup.aarch64()? {
            rustflags.extend(["-L".to_owned(), library.display().to_string()]);
        }
        Ok(Self { triple: AARCH64_TARGET.to_owned(), rustflags, linker: Some(AARCH64_LINKER) })
    }

    /// Makes cargo build for this target.
    fn choose(&self, command: &mut Command) {
        let Self { triple, rustflags, linker } = self;
        // A list; the environment variable with the same effect is split at spaces. Build scripts and macros
        // are compiled without these flags.
        let rustflags = format!("target.{triple}.rustflags={rustflags:?}");
        command.args(["--target", triple, "--config", &rustflags]);
        if let Some(linker) = linker {
            let triple = triple.replace('-', "_");
            command.env(format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase()), linker);
            command.env(format!("CC_{triple}"), linker);
        }
    }
}

fn daemon(target: &Target) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--release", "--package", "probe-user", "--bin", "etcd-disk-probe"]);
    target.choose(&mut build);
    run(&mut build)
}

fn copy_binary() -> Result<()> {
    copy_if_changed(&format!("target/{}/release/etcd-disk-probe", host()?), BINARY)
}

/// Builds the programs that run in virtual machines of another architecture, the daemon included.
pub fn guest(setup: &Setup) -> Result<()> {
    let target = Target::aarch64(setup)?;
    let mut build = cargo();
    build.args(["build", "--profile", TESTS, "--package", "probe-user", "--bin", "etcd-disk-probe"]);
    build.args(["--package", "probe-tests", "--bin", "guest", "--bin", "faulty-probe"]);
    target.choose(&mut build);
    run(&mut build)
}

/// Builds the kernel programs in a target directory of their own: their flags and compiler
/// would otherwise invalidate the host's build, and the host's theirs.
pub fn ebpf(toolchain: &Toolchain) -> Result<()> {
    let linked = &programs(toolchain, "probe")?;
    let Some(objcopy) = toolchain.objcopy() else {
        println!("keeping the debug information of the kernel programs: there is no llvm-objcopy");
        return copy_if_changed(linked, OBJECT);
    };
    // BTF stays. The DWARF, five times as large, would be parsed at every start for nothing.
    let stripped = "target/ebpf/probe.stripped";
    run(clean(objcopy).args(["--strip-debug", linked, stripped]))?;
    copy_if_changed(stripped, OBJECT)
}

/// Builds one object of kernel programs, and returns where it is.
pub fn programs(toolchain: &Toolchain, name: &str) -> Result<String> {
    // aya reads the types of maps and programs from BTF, which the linker generates from debug information.
    // Linux 5.10 supports the instructions of v2; those added by v3 and v4 came later.
    let mut flags =
        ["-C", "debuginfo=2", "-C", "link-arg=--btf", "-C", "target-cpu=v2"].map(str::to_owned).to_vec();
    // BTF names the source file of every line, also of `core`.
    flags.extend(nameless(&toolchain.sysroot()?)?);
    let mut build = toolchain.cargo();
    build
        .args([
            "build",
            "--profile",
            "ebpf",
            "--package",
            "probe-ebpf",
            "--features",
            "kernel",
            "--bin",
            name,
        ])
        .args(["-Z", "build-std=core", "--target-dir", "target/ebpf"]);
    Target { triple: "bpfel-unknown-none".to_owned(), rustflags: flags, linker: None }.choose(&mut build);
    run(&mut build)?;
    Ok(format!("target/ebpf/bpfel-unknown-none/ebpf/{name}"))
}

/// Returns cargo set up for a subcommand on tests, demo and benchmark, for this machine.
pub fn for_tests(subcommand: &str) -> Result<Command> {
    let mut command = cargo();
    command.args([subcommand, "--profile", TESTS]);
    Target::this()?.choose(&mut command);
    Ok(command)
}

/// Returns the flags of a static and reproducible binary.
fn static_flags() -> Result<Vec<String>> {
    let mut flags = ["-C", "target-feature=+crt-static"].map(str::to_owned).to_vec();
    // A compiler that came without its library's source has a library with such names already.
    flags.extend(nameless(Path::new(capture(clean("rustc").args(["--print", "sysroot"]))?.trim()))?);
    Ok(flags)
}

/// Returns the flags that keep the directories of this machine out of panic messages and debug information.
fn nameless(sysroot: &Path) -> Result<Vec<String>> {
    let root = env::current_dir().context("cannot find the current directory")?;
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let cargo_home =
        cargo_home.context("cannot find cargo's directory: neither CARGO_HOME nor HOME is set")?;
    // The last match wins.
    let named = [(cargo_home.as_path(), "/cargo"), (sysroot, "/rust"), (&root, "/etcd-disk-probe")];
    Ok(named.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).to_vec())
}

/// Returns the triple of the machine that builds.
pub fn host() -> Result<String> {
    let about = capture(clean("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("cannot find the host triple of rustc")?.to_owned())
}

/// Copies a file unless it is unchanged: a new modification time would cause builds.
///
/// The copy is renamed into place, as the old file may be running.
pub fn copy_if_changed(from: &str, to: &str) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {from}"))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(directory) = Path::new(to).parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let partial = format!("{to}.partial");
    fs::copy(from, &partial)
        .and_then(|_| fs::rename(&partial, to))
        .with_context(|| format!("cannot copy {from} to {to}"))
}
