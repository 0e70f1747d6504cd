//! Has the C library's allocator give memory back.

use std::ffi::c_int;

/// Larger blocks are mapped by themselves, and so are gone when they are freed.
const MAPPED_BYTES: c_int = 128 << 10;

/// Fixes what the allocator would learn from large bodies: that such blocks belong on the heap, where a small one above each keeps it.
///
/// With an etcd that keeps sending 16 MiB the daemon has some 18 MiB resident between two scrapes, and had 48.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_ARENA_MAX, 1)] {
        // SAFETY: it takes two numbers, locks what it changes, and is called before there is another thread.
        if unsafe { libc::mallopt(setting, value) } == 0 {
            tracing::debug!(setting, "the allocator has no such setting");
        }
    }
}

/// Gives back what starting took and is free again: some MiB, of the kernel programs as they are read and linked.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and locks what it changes.
    unsafe {
        libc::malloc_trim(0);
    }
}
