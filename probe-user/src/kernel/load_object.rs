//! Creates the maps and loads the programs of one kind of hook.

use std::{path::Path, time::Duration};

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use probe_ebpf::{process_names::ProcessNames, series::SERIES};
use procfs::KernelVersion;

use super::{Hook, KernelError, block_io, exact_causes, struct_offsets::Layout};
use crate::system::host::private_mount;

/// The kernel programs, compiled by `cargo xtask build`.
static OBJECT: &[u8] = include_bytes_aligned!(env!("PROBE_EBPF_OBJECT"));

/// One page: a ring that nobody writes to still has to have a size.
const SMALLEST_RING: u32 = 4096;

/// `bpf_get_current_task_btf` (Linux 3ca1032ab7ab): fields of the running thread can be loaded, without the helper that reads memory.
const TYPED_SINCE: KernelVersion = KernelVersion { major: 5, minor: 11, patch: 0 };

/// What the programs are to do.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing to do or to leave")]
pub struct KernelConfig {
    /// Names of the processes to measure, four at most; longer than 15 bytes they are cut, as the kernel cuts them.
    pub process_names: Vec<String>,
    /// Processes at once; each takes 140 KiB, and so does the probe itself for its self-test.
    pub max_targets: u32,
    /// aya-log lines of what the programs decided and why.
    pub log: bool,
    /// Every latency goes to a ring, too; for tests of the histograms.
    pub recording: bool,
    /// Operations longer than this are told of one by one; none if none are.
    pub slow: Option<Duration>,
    /// Block requests are followed, and others' syncs counted.
    pub block: bool,
    /// What threads wait for is recorded at every switch of the scheduler.
    pub exact_causes: bool,
    /// A fault that a test of the cross-check has to find; none in any command.
    pub fault: Option<Fault>,
}

impl KernelConfig {
    /// Returns how many processes the maps hold: one more is the probe itself, which tests itself.
    pub(super) fn places(&self) -> u32 {
        self.max_targets + 1
    }
}

/// A way to count wrong, every thousandth reconciled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Drop = 1,
    Double = 2,
}

/// Loads the programs and their maps into the kernel, attached to nothing yet.
///
/// # Errors
/// Names what this kernel or these privileges do not allow.
///
/// What is said of block requests is a second answer: an error there leaves the rest to work.
pub fn load(
    layout: &Layout,
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
    let typed = u32::from(KernelVersion::current().is_ok_and(|version| version >= TYPED_SINCE));
    let spares = u32::from(hook.has_spares(layout));
    let places = config.places();
    let mut loader = loader();
    loader
        .verifier_log_level(VerifierLogLevel::empty())
        .override_global("OFFSETS", &offsets, true)
        .override_global("PROCESS_NAMES", &names, true)
        .override_global("RECORDING", &recording, true)
        .override_global("FAULT", &fault, true)
        .override_global("HAS_SECONDARY", &spares, true)
        .override_global("SLOW_THRESHOLD_NS", &slow_ns, true)
        .override_global("TRACE_BLOCK_IO", &block, true)
        .override_global("EXACT_CAUSES", &exact, true)
        .override_global("TYPED_TASK", &typed, true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .map_max_entries("TARGET_STATE", places)
        .map_max_entries("TARGET_BY_PROCESS", places)
        .map_max_entries("FREE_TARGETS", places)
        .map_max_entries("HISTOGRAMS", places * SERIES);
    if !config.recording {
        loader.map_max_entries("RECORDS", SMALLEST_RING);
    }
    if !config.exact_causes {
        loader.map_max_entries("THREAD_WAITS", 1).map_max_entries("STACK_TRACES", 1);
    }
    if !config.log {
        loader.map_max_entries("AYA_LOGS", SMALLEST_RING);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| KernelError::Load(Box::new(error)))?;
    hook.load(&mut ebpf, layout)?;
    if config.exact_causes {
        exact_causes::load(&mut ebpf)?;
    }
    let blocks = if config.block { block_io::load(&mut ebpf) } else { Ok(()) };
    Ok((ebpf, blocks))
}

/// Returns a loader that does not know the kernel's types, for nothing is relocated against them.
///
/// aya reads and parses all of them when a loader is made, even if it is told right afterwards that they are not wanted, in 20 ms. So it is
/// made where there are none; who may not mount pays.
fn loader() -> EbpfLoader<'static> {
    let made = private_mount::with("tmpfs", Path::new("/sys/kernel/btf"), EbpfLoader::new);
    let mut loader = made.unwrap_or_else(|_| EbpfLoader::new());
    loader.btf(None);
    loader
}
