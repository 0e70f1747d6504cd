//! The sampler's sources in the kernel half: the ring of slow operations, and arrays in shared memory.

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, BorrowedFd},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf, StackTraceMap},
    util::kernel_symbols,
};
use probe_ebpf::{
    io::{Bio, Owner},
    series::OPERATIONS,
    state::{SlowEvent, Thread},
};

use super::{
    Kernel, KernelError,
    block_io::owners_of,
    in_flight::{in_operation, used_indices},
    map_access::{in_map, take},
    mmap_array::MmapArray,
    monotonic_ns,
};

/// The ring of operations that took longer than the threshold, and, with exact causes, the stacks that they
/// refer to.
pub struct SlowRing {
    ring: RingBuf<MapData>,
    stacks: Option<Stacks>,
}

struct Stacks {
    map: StackTraceMap<MapData>,
    /// Functions by address. Read before privileges are dropped, because all addresses are 0 without them.
    symbols: BTreeMap<u64, String>,
}

/// Arrays in memory that the kernel programs write and the sampler reads.
#[derive(Clone)]
pub struct SamplerMaps {
    threads: Arc<MmapArray<Thread>>,
    requests: Arc<MmapArray<Bio>>,
    owners: Arc<MmapArray<Owner>>,
}

impl SlowRing {
    pub(super) fn take(ebpf: &mut Ebpf, exact_causes: bool) -> Result<Self, KernelError> {
        let ring = RingBuf::try_from(take(ebpf, "SLOW_EVENTS")?).map_err(in_map("SLOW_EVENTS"))?;
        let stacks = if exact_causes {
            let map = StackTraceMap::try_from(take(ebpf, "STACK_TRACES")?).map_err(in_map("STACK_TRACES"))?;
            Some(Stacks { map, symbols: kernel_symbols().unwrap_or_default() })
        } else {
            None
        };
        Ok(Self { ring, stacks })
    }

    /// Returns the descriptor that becomes readable after a slow operation.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor, and the returned borrow cannot outlive the ring.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// Returns the next record, if there is one.
    pub fn pop(&mut self) -> Option<SlowEvent> {
        let bytes = self.ring.next()?;
        // SAFETY: the programs write whole records, and any bit pattern is one.
        Some(unsafe { bytes.as_ptr().cast::<SlowEvent>().read_unaligned() })
    }

    /// Returns the functions of a stack, innermost first; empty without exact causes.
    pub fn functions(&self, stack: u32) -> Vec<&str> {
        let Some(Stacks { map, symbols }) = &self.stacks else { return Vec::new() };
        let Ok(trace) = map.get(&stack, 0) else { return Vec::new() };
        let name = |ip| symbols.range(..=ip).next_back().map(|(_, name)| name.as_str());
        trace.frames().iter().filter_map(|frame| name(frame.ip)).collect()
    }
}

impl SamplerMaps {
    /// Returns the indices of threads that are in use.
    pub fn used_indices(&self) -> Vec<u32> {
        used_indices(&self.threads).collect()
    }

    /// Returns the threads at these indices that are in an operation, with the age of the operation in ns.
    pub fn in_flight(&self, indices: &[u32]) -> Vec<(Thread, u64)> {
        let now_ns = monotonic_ns();
        in_operation(&self.threads, indices.iter().copied())
            .filter(|thread| (thread.series as usize) < OPERATIONS.len())
            .map(|thread| (thread, now_ns.saturating_sub(thread.started_ns)))
            .collect()
    }

    /// Returns the requests in flight on all watched devices.
    pub fn requests(&self) -> Vec<Bio> {
        let used = (0..self.requests.length()).filter(|index| self.requests.word(*index, 0) != 0);
        used.map(|index| self.requests.read(index)).filter(|request| request.address != 0).collect()
    }

    /// Returns the process of a thread, by the thread's index.
    pub fn process_of(&self, thread: u32) -> Option<u32> {
        let pid_tgid = (thread < self.threads.length()).then(|| self.threads.read(thread).key.pid_tgid)?;
        u32::try_from(pid_tgid >> 32).ok()
    }

    /// Returns the owners with their activity on all watched devices.
    pub fn owners(&self) -> Vec<Owner> {
        owners_of(&self.owners).collect()
    }
}

impl Kernel {
    /// Returns the sources of the sampler, once.
    pub fn take_sampler_source(&mut self) -> Option<(SlowRing, SamplerMaps)> {
        let (requests, owners) = self.block.shared();
        let shared = SamplerMaps { threads: self.threads.clone(), requests, owners };
        self.slow.take().map(|ring| (ring, shared))
    }
}
