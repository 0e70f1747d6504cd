//! Loads the programs and attaches them.

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
    thread,
};

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned, programs::TracePoint};
use probe_ebpf::{
    layout::Names,
    series::{Op, SERIES},
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags},
    thread::UnshareFlags,
};

use super::{KernelError, offsets};

/// The kernel programs, compiled by `cargo xtask build`.
static OBJECT: &[u8] = include_bytes_aligned!(env!("PROBE_EBPF_OBJECT"));

/// Where the kernel keeps what can be traced.
const TRACEFS: &str = "/sys/kernel/tracing";
const TRACEFS_BEFORE: &str = "/sys/kernel/debug/tracing";

/// One page: a ring that nobody writes to still has to have a size.
const SMALLEST_RING: u32 = 4096;

/// What the programs are to do.
#[derive(Clone, Debug, Default)]
pub struct KernelConfig {
    /// Names of the processes to measure, four at most; longer than 15 bytes they are cut, as the kernel cuts them.
    pub process_names: Vec<String>,
    /// Processes at once; each takes 140 KiB.
    pub max_targets: u32,
    /// aya-log lines of what the programs decided and why.
    pub log: bool,
    /// Every latency goes to a ring, too; for tests of the histograms.
    pub recording: bool,
    /// A fault that a test of the cross-check has to find; none in any command.
    pub fault: Option<Fault>,
}

/// A way to count wrong, every thousandth reconciled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Drop = 1,
    Double = 2,
}

/// Returns whether our pids are the kernel's: else no process that the programs see can be found in `/proc`.
pub fn in_initial_pid_namespace() -> bool {
    // `PROC_PID_INIT_INO` (include/linux/proc_ns.h), fixed since Linux 3.8.
    const INITIAL: &str = "pid:[4026531836]";
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace.as_os_str() == INITIAL)
}

/// Attaches loaded programs.
///
/// # Errors
/// Names what this kernel or these privileges do not allow.
pub fn attach(mut ebpf: Ebpf) -> Result<Ebpf, KernelError> {
    if has_events(TRACEFS) || has_events(TRACEFS_BEFORE) {
        attach_tracepoints(&mut ebpf)?;
        return Ok(ebpf);
    }
    // The file system is not mounted. Mount it where only one short-lived thread sees it, so nothing of it is left.
    let attaching = thread::spawn(move || {
        mount_tracefs().map_err(KernelError::NoTracefs)?;
        attach_tracepoints(&mut ebpf)?;
        Ok(ebpf)
    });
    attaching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Loads the programs and their maps into the kernel, attached to nothing yet.
///
/// # Errors
/// Names what this kernel or these privileges do not allow.
pub fn load(config: &KernelConfig) -> Result<Ebpf, KernelError> {
    let offsets = offsets::running_kernel()?;
    let mut names = Names::NONE;
    for name in &config.process_names {
        if !names.add(name) {
            return Err(KernelError::TooManyNames(name.clone()));
        }
    }
    let recording = u32::from(config.recording);
    let fault = config.fault.map_or(0, |fault| fault as u32);
    let log_level = if config.log { u8::MAX } else { 0 };
    let mut loader = EbpfLoader::new();
    loader
        .btf(None) // No relocations against the kernel's types, so no need to parse them again.
        .verifier_log_level(VerifierLogLevel::empty())
        .override_global("OFFSETS", &offsets, true)
        .override_global("NAMES", &names, true)
        .override_global("RECORDING", &recording, true)
        .override_global("FAULT", &fault, true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .map_max_entries("TARGET_STATE", config.max_targets)
        .map_max_entries("TARGET_BY_PROCESS", config.max_targets)
        .map_max_entries("FREE_TARGETS", config.max_targets)
        .map_max_entries("HISTOGRAMS", config.max_targets * SERIES);
    if !config.recording {
        loader.map_max_entries("RECORDS", SMALLEST_RING);
    }
    if !config.log {
        loader.map_max_entries("AYA_LOGS", SMALLEST_RING);
    }
    let mut ebpf = loader.load(OBJECT).map_err(KernelError::Load)?;
    for name in program_names() {
        program(&mut ebpf, &name)?.load().map_err(|error| KernelError::Verify(name, error))?;
    }
    Ok(ebpf)
}

fn attach_tracepoints(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    for name in program_names() {
        program(ebpf, &name)?.attach("syscalls", &name).map_err(|error| KernelError::Attach(name, error))?;
    }
    Ok(())
}

/// Returns the programs, named as the tracepoints are: exits before entries, so that whatever is seen to begin is then
/// seen to end.
fn program_names() -> impl Iterator<Item = String> {
    let sides = ["sys_exit", "sys_enter"];
    sides.into_iter().flat_map(|side| Op::ALL.map(|op| format!("{side}_{}", op.as_str())))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut TracePoint, KernelError> {
    let missing = || KernelError::NoProgram(name.to_owned());
    ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

/// Returns the descriptors of the loaded programs, which tell how they fare.
pub fn descriptors(ebpf: &Ebpf) -> Vec<RawFd> {
    let programs = ebpf.programs().filter_map(|(_, program)| program.fd().ok());
    programs.map(|program| program.as_fd().as_raw_fd()).collect()
}

fn has_events(tracefs: &str) -> bool {
    Path::new(tracefs).join("events/syscalls").is_dir()
}

/// Mounts tracefs in a mount namespace of the running thread's own.
fn mount_tracefs() -> rustix::io::Result<()> {
    // SAFETY: the thread gets its own root and working directory, which nothing of ours depends on; files stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)? };
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    rustix::mount::mount("tracefs", TRACEFS, "tracefs", MountFlags::RDONLY, None)
}
