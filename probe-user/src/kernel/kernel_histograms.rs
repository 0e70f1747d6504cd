//! The histograms of all targets. Only the blocks of existing processes are mapped into our memory.

use std::{
    cell::OnceCell,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{Ebpf, maps::MapData};
use memmap2::{MmapOptions, MmapRaw};
use probe_ebpf::{
    histogram::{Histogram, SLOTS, SlowSums},
    series::SERIES,
};

use super::{KernelError, map_access::take_array_data};
use crate::analysis::latency::{Latencies, TimeSpent};

const NAME: &str = "HISTOGRAMS";

/// Bytes of all histograms of one target.
const BLOCK_BYTES: usize = SERIES as usize * size_of::<Histogram>();

/// Indices of the words of a [`Histogram`] that follow its slots.
const SUM_NS: usize = SLOTS;
const MAX_NS: usize = SLOTS + 1;
const BYTES: usize = SLOTS + 2;
const ENTERED: usize = SLOTS + 3;
const ON_CPU_NS: usize = SLOTS + 4;
const RUN_QUEUE_NS: usize = SLOTS + 5;
const SLOW: usize = SLOTS + 6;

/// One block of histograms for each index that a target can have.
#[derive(Debug)]
pub struct Histograms {
    map: MapData,
    blocks: Vec<OnceCell<MmapRaw>>,
}

impl Histograms {
    /// Takes the map, which was created with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// If there is no such array.
    pub fn take(ebpf: &mut Ebpf, targets: u32) -> Result<Self, KernelError> {
        let map = take_array_data(ebpf, NAME)?;
        Ok(Self { map, blocks: (0..targets).map(|_| OnceCell::new()).collect() })
    }

    /// Maps the block of a target unless it is mapped already. All of a mapped block counts as resident
    /// memory.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn map(&self, target: u32) -> Result<(), KernelError> {
        let Some(block) = self.blocks.get(target as usize).filter(|block| block.get().is_none()) else {
            return Ok(());
        };
        let memory = MmapOptions::new()
            .offset(u64::from(target) * BLOCK_BYTES as u64)
            .len(BLOCK_BYTES)
            .map_raw(self.map.fd().as_fd().as_raw_fd())
            .map_err(|error| KernelError::Memory(NAME, error))?;
        // It cannot be set already: the cell is not shared between threads.
        let _ = block.set(memory);
        Ok(())
    }

    /// Returns the current content of one histogram.
    pub fn latencies(&self, target: u32, series: u32) -> Latencies {
        let word = |word| self.word(target, series, word);
        // The sum first, then the slots. The programs write in the other order, so the sum never contains an
        // event that the slots lack.
        let (sum_ns, max_ns, bytes) = (word(SUM_NS), word(MAX_NS), word(BYTES));
        Latencies::new(Box::new(std::array::from_fn(word)), sum_ns, max_ns, bytes)
    }

    /// Returns how the time of one series was spent, and that of its slow events.
    pub fn time_spent(&self, target: u32, series: u32) -> TimeSpent {
        let word = |word| self.word(target, series, word);
        // In the reverse of the order in which they are written, so that no part exceeds its whole.
        let slow = |part: usize| word(SLOW + part);
        let (slow_run_queue_ns, slow_on_cpu_ns) = (slow(3), slow(2));
        let (slow_sum_ns, slow_events) = (slow(1), slow(0));
        let (run_queue_ns, on_cpu_ns) = (word(RUN_QUEUE_NS), word(ON_CPU_NS));
        TimeSpent {
            sum_ns: word(SUM_NS),
            on_cpu_ns,
            run_queue_ns,
            slow: SlowSums {
                events: slow_events,
                sum_ns: slow_sum_ns,
                on_cpu_ns: slow_on_cpu_ns,
                run_queue_ns: slow_run_queue_ns,
            },
        }
    }

    /// Returns how many events of a reconciled series have begun.
    pub fn entered(&self, target: u32, series: u32) -> u64 {
        self.word(target, series, ENTERED)
    }

    /// Reads one word of a histogram, with all that the kernel wrote before it; 0 if the block is not mapped.
    fn word(&self, target: u32, series: u32, word: usize) -> u64 {
        let Some(memory) = self.blocks.get(target as usize).and_then(OnceCell::get) else { return 0 };
        assert!(series < SERIES && word < size_of::<Histogram>() / 8, "within the block");
        let at = series as usize * size_of::<Histogram>() + word * 8;
        #[expect(clippy::cast_ptr_alignment, reason = "a page and multiples of eight bytes")]
        // SAFETY: the assertion above keeps the offset inside the mapping of `BLOCK_BYTES`.
        let word = unsafe { memory.as_mut_ptr().add(at) }.cast::<u64>();
        // SAFETY: the word is inside the mapping and aligned: the mapping begins on a page, and histograms
        // are multiples of eight bytes. The kernel changes it with atomic additions only.
        unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Acquire)
    }

    /// Sets the block of a target to zero and unmaps it. Only for a target that no program uses any more.
    ///
    /// # Errors
    /// If the block is not mapped and cannot be.
    pub fn release(&mut self, target: u32) -> Result<(), KernelError> {
        self.map(target)?;
        if let Some(memory) = self.blocks.get_mut(target as usize).and_then(OnceCell::take) {
            // SAFETY: the mapping has this many bytes, and zero is a histogram as any bit pattern is.
            unsafe { memory.as_mut_ptr().write_bytes(0, BLOCK_BYTES) };
        }
        Ok(())
    }
}
