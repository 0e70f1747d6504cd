//! The histograms of all targets, of which those of processes that are there are mapped into our memory.

use std::{
    cell::OnceCell,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
};
use memmap2::{MmapOptions, MmapRaw};
use probe_ebpf::{histogram::Histogram, series::SERIES};

use super::{KernelError, take};

const NAME: &str = "HISTOGRAMS";

/// What one target has.
const BLOCK_BYTES: usize = SERIES as usize * size_of::<Histogram>();

/// A block for each place that a target can have.
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
        match take(ebpf, NAME)? {
            Map::Array(map) => Ok(Self { map, blocks: (0..targets).map(|_| OnceCell::new()).collect() }),
            _ => Err(KernelError::Map(NAME, MapError::InvalidName { name: NAME.to_owned() })),
        }
    }

    /// Maps the block of a target, if that is not done yet: mapped, all of it counts as resident.
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
        // Nobody else sets it: it is not shared between threads.
        let _ = block.set(memory);
        Ok(())
    }

    /// Reads one word of a histogram, with all that the kernel wrote before it; 0 where nothing is mapped.
    pub fn word(&self, target: u32, series: u32, word: usize) -> u64 {
        let Some(memory) = self.blocks.get(target as usize).and_then(OnceCell::get) else { return 0 };
        assert!(series < SERIES && word < size_of::<Histogram>() / 8, "within the block");
        let at = series as usize * size_of::<Histogram>() + word * 8;
        #[expect(clippy::cast_ptr_alignment, reason = "a page and multiples of eight bytes")]
        // SAFETY: it is inside the mapping.
        let word = unsafe { memory.as_mut_ptr().add(at) }.cast::<u64>();
        // SAFETY: as above; the kernel changes it with atomic additions only.
        unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Acquire)
    }

    /// Sets the block of a target to zero and unmaps it; only for one that no program uses any more.
    ///
    /// # Errors
    /// If it cannot be mapped before.
    pub fn release(&mut self, target: u32) -> Result<(), KernelError> {
        self.map(target)?;
        if let Some(memory) = self.blocks.get_mut(target as usize).and_then(OnceCell::take) {
            // SAFETY: the mapping has this many bytes, and zero is a histogram as any bit pattern is.
            unsafe { memory.as_mut_ptr().write_bytes(0, BLOCK_BYTES) };
        }
        Ok(())
    }
}
