//! Kernel arrays mapped into our own memory: a snapshot costs no system call.

use std::{
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{Pod, maps::MapData};
use memmap2::{MmapOptions, MmapRaw};

use super::KernelError;

/// An array map in memory shared with the kernel programs, which may write it at any time.
#[derive(Debug)]
pub struct MmapArray<T> {
    memory: MmapRaw,
    length: u32,
    of: PhantomData<T>,
}

impl<T: Pod> MmapArray<T> {
    /// Maps an array that was created with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(name: &'static str, map: &MapData, length: u32) -> Result<Self, KernelError> {
        // Elements are at multiples of eight bytes (`array_map_alloc`, kernel/bpf/arraymap.c).
        const { assert!(size_of::<T>().is_multiple_of(8), "our elements have the kernel's offsets") };
        let bytes = length as usize * size_of::<T>();
        let memory = MmapOptions::new()
            .len(bytes)
            .map_raw(map.fd().as_fd().as_raw_fd())
            .map_err(|error| KernelError::Memory(name, error))?;
        Ok(Self { memory, length, of: PhantomData })
    }

    pub fn length(&self) -> u32 {
        self.length
    }

    /// Copies an element. A word that the kernel writes during the copy has its old or its new value, never a
    /// mix.
    pub fn read(&self, index: u32) -> T {
        // SAFETY: `element` is inside the mapping and aligned, and any bit pattern is a `T`.
        unsafe { self.element(index).read_volatile() }
    }

    /// Reads one word of an element, with all that the kernel wrote before it.
    pub fn word(&self, index: u32, word: usize) -> u64 {
        assert!(word < size_of::<T>() / 8, "within the element");
        // SAFETY: the word is inside the mapping and aligned; the kernel changes it with atomic additions
        // only.
        unsafe { AtomicU64::from_ptr(self.element(index).cast::<u64>().add(word)) }.load(Ordering::Acquire)
    }

    /// Sets an element to zero. Only for an element that no program uses any more.
    pub fn clear(&self, index: u32) {
        // SAFETY: `element` is inside the mapping and aligned, and zero is a `T` as any bit pattern is.
        unsafe { self.element(index).write_bytes(0, 1) };
    }

    fn element(&self, index: u32) -> *mut T {
        assert!(index < self.length, "the kernel assigns indices within the array");
        // SAFETY: the mapping holds `length` elements, each of which is a multiple of eight bytes; it begins
        // on a page.
        unsafe { self.memory.as_mut_ptr().cast::<T>().add(index as usize) }
    }
}
