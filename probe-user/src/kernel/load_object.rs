//! Creates the maps and loads the programs of one kind of hook.

use std::{path::Path, time::Duration};

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use probe_ebpf::{process_names::ProcessNames, series::SERIES};
use procfs::KernelVersion;

use super::{Hook, KernelError, block_io, exact_causes, struct_offsets::KernelLayout};
use crate::system::host::private_mount;

/// The kernel programs, compiled by `cargo xtask build`.
static OBJECT: &[u8] = include_bytes_aligned!(env!("PROBE_EBPF_OBJECT"));

/// One page: an unused ring also needs a size.
const RING_BYTES_MIN: u32 = 4096;

/// `bpf_get_current_task_btf` (Linux commit 3ca1032ab7ab): programs can load fields of the running thread
/// directly, without the helper that reads memory.
const TYPED_TASK_SINCE: KernelVersion = KernelVersion { major: 5, minor: 11, patch: 0 };

/// Configuration of the programs.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each switches one independent feature")]
pub struct KernelConfig {
    /// Names of the processes to measure, at most four. A name is truncated to 15 bytes, as the kernel does.
    pub process_names: Vec<String>,
    /// Processes measured at the same time; each takes 140 KiB, and so does the probe itself for its
    /// self-test.
    pub max_targets: u32,
    /// Log the programs' decisions and their reasons, through aya-log.
    pub log: bool,
    /// Write every latency to a ring as well; for tests of the histograms.
    pub recording: bool,
    /// Report operations longer than this one by one; `None` reports none.
    pub slow: Option<Duration>,
    /// Trace block requests, and count the syncs of other processes.
    pub block: bool,
    /// Record the waits of threads at every context switch.
    pub exact_causes: bool,
    /// A fault that a test of the cross-check must find; `None` in every command.
    pub fault: Option<CountingFault>,
}

impl KernelConfig {
    /// Returns how many processes the maps hold: one more than configured, for the probe's self-test on
    /// itself.
    pub(super) fn target_slots(&self) -> u32 {
        self.max_targets + 1
    }
}

/// A deliberate counting error, at every thousandth reconciled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountingFault {
    Drop = 1,
    Double = 2,
}

/// Loads the programs and their maps into the kernel without attaching the programs.
///
/// # Errors
/// Names what this kernel or these privileges do not allow.
///
/// The inner result is for the programs that trace block requests: if these fail, all others still work.
pub fn load(
    layout: &KernelLayout,
    hook: Hook,
    config: &KernelConfig,
) -> Result<(Ebpf, Result<(), KernelError>), KernelError> {
    let offsets = layout.offsets(hook)?;
    let mut names = ProcessNames::NONE;
    for name in &config.process_names {
        if !names.add(name) {
            return Err(KernelError::TooManyNames(name.clone()));
        }
    }
    let recording = u32::from(config.recording);
    let fault = config.fault.map_or(0, |fault| fault as u32);
    let log_level = if config.log { u8::MAX } else { 0 };
    let slow_ns = config.slow.map_or(u64::MAX, |slow| u64::try_from(slow.as_nanos()).unwrap_or(u64::MAX));
    let (block, exact) = (u32::from(config.block), u32::from(config.exact_causes));
    let typed = u32::from(KernelVersion::current().is_ok_and(|version| version >= TYPED_TASK_SINCE));
    let secondaries = u32::from(hook.has_secondaries(layout));
    let target_slots = config.target_slots();
    let mut loader = loader();
    loader
        .verifier_log_level(VerifierLogLevel::empty())
        .override_global("OFFSETS", &offsets, true)
        .override_global("PROCESS_NAMES", &names, true)
        .override_global("RECORDING", &recording, true)
        .override_global("FAULT", &fault, true)
        .override_global("HAS_SECONDARY", &secondaries, true)
        .override_global("SLOW_THRESHOLD_NS", &slow_ns, true)
        .override_global("TRACE_BLOCK_IO", &block, true)
        .override_global("EXACT_CAUSES", &exact, true)
        .override_global("TYPED_TASK", &typed, true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .map_max_entries("TARGET_STATE", target_slots)
        .map_max_entries("TARGET_BY_PROCESS", target_slots)
        .map_max_entries("FREE_TARGETS", target_slots)
        .map_max_entries("HISTOGRAMS", target_slots * SERIES);
    if !config.recording {
        loader.map_max_entries("RECORDS", RING_BYTES_MIN);
    }
    if !config.exact_causes {
        loader.map_max_entries("THREAD_WAITS", 1).map_max_entries("STACK_TRACES", 1);
    }
    if !config.log {
        loader.map_max_entries("AYA_LOGS", RING_BYTES_MIN);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
    hook.load(&mut ebpf, layout)?;
    if config.exact_causes {
        exact_causes::load(&mut ebpf)?;
    }
    let block_programs = if config.block { block_io::load(&mut ebpf) } else { Ok(()) };
    Ok((ebpf, block_programs))
}

/// Returns a loader without the kernel's BTF, because no program is relocated against it.
///
/// `EbpfLoader::new` reads and parses all of the kernel's types, which takes 20 ms, even if the next call
/// discards them. The loader is therefore created with BTF hidden behind a private mount; without permission
/// to mount, that costs 20 ms.
fn loader() -> EbpfLoader<'static> {
    let without_btf = private_mount::with("tmpfs", Path::new("/sys/kernel/btf"), EbpfLoader::new);
    let mut loader = without_btf.unwrap_or_else(|_| EbpfLoader::new());
    loader.btf(None);
    loader
}
