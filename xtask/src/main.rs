//! Every command that people and CI run on this repository.

mod bench;
mod compile;
mod demo;
mod fuzz;
mod image;
mod process;
mod render;
mod setup;
mod test;
mod tidy;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use self::setup::Scope;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get whatever is missing: eBPF toolchain, system packages, etcds and kernels for the tests
    Setup,
    /// Leave `target/release/etcd-disk-probe`, static, the kernel programs inside
    Build {
        /// Build for aarch64, in `target/aarch64-unknown-linux-gnu/release`
        #[arg(long, conflicts_with = "ebpf_only")]
        aarch64: bool,
        /// Build only the kernel programs
        #[arg(long)]
        ebpf_only: bool,
    },
    /// Probe a real etcd under load and print the report
    Demo {
        /// Passed through to the demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure what the probe costs, beside other tracers: `bench -- --help` names the sections
    Bench {
        /// Passed through to the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every test there is
    Test {
        /// Run only the tests whose name contains this, and none of the other checks
        #[arg(long, value_name = "FILTER")]
        only: Option<String>,
        /// Run them this many times, and add up what came of it
        #[arg(long, value_name = "TIMES", default_value_t = 1, requires = "only", value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
    },
    /// Leave the image and its bill of materials in `target/image`, made by podman or docker
    Image {
        /// For another machine than this one; may be given twice
        #[arg(long)]
        arch: Vec<image::Arch>,
        /// Another tag than the version
        #[arg(long)]
        tag: Option<String>,
        /// Leave them in this directory
        #[arg(long, value_name = "DIRECTORY", default_value = "target/image")]
        output: PathBuf,
    },
    /// Throw bytes at whatever reads those of others, to find what makes it panic, hang or grow
    Fuzz {
        /// Only this target, of those in `fuzz/fuzz_targets`
        target: Option<String>,
        /// How long for each
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
    },
    /// Write `deploy/manifests`: the chart, rendered for each distribution
    Render,
    /// Check what no other tool checks: dependencies, lengths of files, words that must not be committed
    Tidy,
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a task at the root of the workspace, wherever in it the user is.
fn run(task: Task) -> Result<()> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = PathBuf::from(manifest).join("..");
    let root = root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
    env::set_current_dir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
    match task {
        Task::Setup => setup::run(Scope::Everything).map(drop),
        Task::Build { ebpf_only: true, .. } => compile::ebpf(&setup::run(Scope::Machine)?.toolchain),
        Task::Build { aarch64: true, .. } => compile::aarch64(&setup::run(Scope::Everything)?),
        Task::Build { .. } => compile::all(&setup::run(Scope::Machine)?.toolchain),
        Task::Demo { args } => demo::run(&root, &args),
        Task::Bench { args } => bench::run(&args),
        Task::Test { only, repeat } => test::run(&root, only.as_deref(), repeat),
        Task::Image { arch, tag, output } => image::run(&arch, tag.as_deref(), &output),
        Task::Fuzz { target, seconds } => {
            // The kernel programs are inside whatever is built of the daemon.
            compile::ebpf(&setup::run(Scope::Machine)?.toolchain)?;
            fuzz::run(target.as_deref(), seconds)
        }
        Task::Render => render::run(&setup::python()?),
        Task::Tidy => tidy::run(),
    }
}
