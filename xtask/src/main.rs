//! Every command that people and CI run on this repository.

mod bench;
mod checks;
mod compile;
mod demo;
mod fuzz;
mod image;
mod process;
mod render;
mod series;
mod setup;
mod steps;
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
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install missing dependencies: eBPF toolchain, system packages, etcd and kernels for the tests
    Setup,
    /// Build `target/release/etcd-disk-probe`, static, with the kernel programs inside
    Build {
        /// Build for aarch64, in `target/aarch64-unknown-linux-gnu/release`
        #[arg(long, conflicts_with = "ebpf_only")]
        aarch64: bool,
        /// Build only the kernel programs
        #[arg(long)]
        ebpf_only: bool,
    },
    /// Run the probe on a real etcd under load and print its report
    Demo {
        /// Arguments of the demo; `demo -- --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure the cost of the probe next to other tracers: `bench -- --help` lists the sections
    Bench {
        /// Arguments of the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check format, tidy, clippy, documentation, dependencies and unit tests; takes minutes
    Check,
    /// Run all checks and tests
    Test {
        /// Run only the tests whose names contain FILTER, and no other checks
        #[arg(long, value_name = "FILTER")]
        only: Option<String>,
        /// Run them this many times and add up the results
        #[arg(long, value_name = "TIMES", default_value_t = 1, requires = "only", value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
    },
    /// Run the case of `tests/series/NAME.json` many times, keep every run, and compare with the expected
    /// results
    Series {
        name: String,
        /// Make this many runs, not the number in the file
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        runs: Option<u32>,
        /// Keep the runs in this directory [default: below target/series]
        #[arg(long, value_name = "DIRECTORY")]
        output: Option<PathBuf>,
    },
    /// Build the image and its bill of materials in `target/image`, with podman or docker
    Image {
        /// Build for another machine than this one; may be given twice
        #[arg(long)]
        arch: Vec<image::Arch>,
        /// Tag the image with this rather than the version
        #[arg(long)]
        tag: Option<String>,
        /// Write them to this directory
        #[arg(long, value_name = "DIRECTORY", default_value = "target/image")]
        output: PathBuf,
    },
    /// Fuzz the parsers of untrusted input for panics, hangs and unbounded memory
    Fuzz {
        /// Fuzz only this target of `fuzz/fuzz_targets`
        target: Option<String>,
        /// Fuzz each target this long
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
    },
    /// Write `deploy/manifests`: the chart, rendered for each distribution
    Render,
    /// Check what no other tool checks: imports, cycles, file names, lengths, and words
    Tidy,
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command at the root of the workspace, from whichever directory in it.
fn run(command: Command) -> Result<()> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = PathBuf::from(manifest).join("..");
    let root = root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
    env::set_current_dir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
    match command {
        Command::Setup => setup::run(Scope::Everything).map(drop),
        Command::Build { ebpf_only: true, .. } => compile::ebpf(&setup::run(Scope::Machine)?.toolchain),
        Command::Build { aarch64: true, .. } => compile::aarch64(&setup::run(Scope::Everything)?),
        Command::Build { .. } => compile::all(&setup::run(Scope::Machine)?.toolchain),
        Command::Demo { args } => demo::run(&root, &args),
        Command::Bench { args } => bench::run(&args),
        Command::Check => checks::run(),
        Command::Test { only, repeat } => test::run(&root, only.as_deref(), repeat),
        Command::Series { name, runs, output } => series::run(&root, &name, runs, output.as_deref()),
        Command::Image { arch, tag, output } => image::run(&arch, tag.as_deref(), &output),
        Command::Fuzz { target, seconds } => {
            // Everything that is built of the daemon includes the kernel programs.
            compile::ebpf(&setup::run(Scope::Machine)?.toolchain)?;
            fuzz::run(target.as_deref(), seconds)
        }
        Command::Render => render::run(&setup::python()?),
        Command::Tidy => tidy::run(),
    }
}
