//! A bbolt transaction as system calls on one database file.
//!
//! bbolt's `tx.go` (1.3): grow the file if required (`ftruncate`, `fsync`), `pwrite64` the dirty pages,
//! `fdatasync`, `pwrite64` one meta page, `fdatasync`. The commit ends with the second. Opening a new
//! database writes its first four pages in one call and syncs them; that is not a commit.

use crate::state::Backend;

/// Bytes at the start of a page that identify a meta page: bbolt's `page` (16 bytes) and the head of its
/// `meta`.
pub const HEAD_BYTES: usize = 28;

/// bbolt's `metaPageFlag`, at offset 8 of a page.
const META_FLAG: u16 = 0x04;
/// bbolt's `magic`, at offset 16 of a meta page.
const MAGIC: u32 = 0xED0C_DAED;

/// The kind of a write to a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Anything but a meta page.
    Data,
    /// One meta page: the last write of a commit.
    Meta,
    /// The first pages of a new database.
    New,
}

/// Returns the first bytes of a page with these flags, magic number and page size.
fn head(flags: u16, magic: u32, page_bytes: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[8..10].copy_from_slice(&flags.to_le_bytes());
    head[16..20].copy_from_slice(&magic.to_le_bytes());
    head[24..28].copy_from_slice(&page_bytes.to_le_bytes());
    head
}

/// Returns the first bytes of bbolt's meta page, for programs that imitate bbolt.
pub fn meta_head(page_bytes: u32) -> [u8; HEAD_BYTES] {
    head(META_FLAG, MAGIC, page_bytes)
}

/// Returns whether a write may contain a meta page, in which case its first bytes are read.
///
/// Pages 0 and 1 are the meta pages, so the offset is 0 or the length.
#[inline(always)]
pub const fn may_be_meta(offset: u64, bytes: u64) -> bool {
    offset == 0 || offset == bytes
}

/// Returns the kind of a write by its first bytes, `head`. Offset and length alone are ambiguous: five data
/// pages at page five have offset = length, too.
///
/// Every meta page contains the page size, so none is assumed.
#[inline(always)]
pub fn classify_page(head: &[u8; HEAD_BYTES], bytes: u64) -> Page {
    let flags = u16::from_le_bytes([head[8], head[9]]);
    let magic = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
    let page_bytes = u32::from_le_bytes([head[24], head[25], head[26], head[27]]);
    if flags != META_FLAG || magic != MAGIC {
        Page::Data
    } else if u64::from(page_bytes) == bytes {
        Page::Meta
    } else {
        Page::New
    }
}

impl Backend {
    /// Guesses the kind of a write whose bytes could not be read: a meta page has the length of the previous
    /// one.
    #[inline(always)]
    pub fn guess_page(&self, offset: u64, bytes: u64) -> Page {
        if bytes == u64::from(self.page_bytes) && may_be_meta(offset, bytes) {
            Page::Meta
        } else {
            Page::Data
        }
    }

    /// Records that a transaction writes, or grows the file.
    #[inline(always)]
    pub fn begin_write(&mut self, page: Page, bytes: u64, now_ns: u64) {
        self.used_ns = now_ns;
        if self.meta_written != 0 {
            // No sync followed the meta page, so the commit ended with it (`--unsafe-no-fsync`).
            self.reset();
        }
        // The first pages of a new database begin no transaction.
        if self.commit_started_ns == 0 && !matches!(page, Page::New) {
            self.commit_started_ns = now_ns;
        }
        if matches!(page, Page::Meta) {
            self.page_bytes = u32::try_from(bytes).unwrap_or(0);
        }
    }

    /// Records that the meta page is written; returns the time since the transaction's first write.
    #[inline(always)]
    pub fn end_meta(&mut self, now_ns: u64) -> u64 {
        self.meta_written = 1;
        now_ns.saturating_sub(self.commit_started_ns)
    }

    /// Returns whether the sync that begins is the end of a commit.
    #[inline(always)]
    pub const fn ends_with_sync(&self) -> bool {
        self.meta_written != 0
    }

    /// Records the end of the sync that completes a commit; returns the time since the transaction's first
    /// write.
    #[inline(always)]
    pub fn end_commit(&mut self, now_ns: u64) -> u64 {
        let latency_ns = now_ns.saturating_sub(self.commit_started_ns);
        self.reset();
        latency_ns
    }

    /// Clears the transaction, which has ended or failed.
    #[inline(always)]
    pub fn reset(&mut self) {
        self.commit_started_ns = 0;
        self.meta_written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn pages_are_classified_by_content() {
        let cases = [
            (head(META_FLAG, MAGIC, 4096), 4096, Page::Meta, "one meta page"),
            (head(META_FLAG, MAGIC, 16384), 16384, Page::Meta, "larger pages"),
            (head(META_FLAG, MAGIC, 4096), 16384, Page::New, "the first four pages of a new database"),
            (head(0x02, MAGIC, 4096), 4096, Page::Data, "a leaf that happens to hold the magic number"),
            (head(META_FLAG, 0, 4096), 4096, Page::Data, "no magic number"),
            (head(0x10, 0, 0), 5 * 4096, Page::Data, "a free list of five pages at page five"),
        ];
        for (head, bytes, expected, why) in cases {
            assert_eq!(classify_page(&head, bytes), expected, "{why}");
        }
    }

    /// Performs a commit of one data page; returns the latencies of both ends.
    fn commit(backend: &mut Backend, at_ns: u64) -> (u64, u64) {
        backend.begin_write(Page::Data, PAGE, at_ns);
        assert!(!backend.ends_with_sync(), "the sync of the data pages ends no commit");
        backend.begin_write(Page::Meta, PAGE, at_ns + 20);
        let meta_ns = backend.end_meta(at_ns + 25);
        assert!(backend.ends_with_sync(), "the sync of the meta page does");
        (meta_ns, backend.end_commit(at_ns + 40))
    }

    #[test]
    fn a_commit_runs_from_its_first_write_to_its_second_sync() {
        let mut backend = Backend::default();
        assert_eq!(commit(&mut backend, 1_000), (25, 40));
        assert_eq!(commit(&mut backend, 5_000), (25, 40), "and the next has its own start");
        assert!(!backend.ends_with_sync(), "a sync without a meta page ends nothing");
    }

    #[test]
    fn growth_belongs_to_the_commit() {
        let mut backend = Backend::default();
        backend.begin_write(Page::Data, 0, 500);
        assert!(!backend.ends_with_sync());
        assert_eq!(commit(&mut backend, 1_000), (525, 540));
    }

    #[test]
    fn a_new_database_is_no_commit() {
        let mut backend = Backend::default();
        backend.begin_write(Page::New, 4 * PAGE, 100);
        assert!(!backend.ends_with_sync());
        assert_eq!(commit(&mut backend, 1_000), (25, 40), "its first pages do not lengthen the first commit");
    }

    #[test]
    fn without_syncs_the_meta_page_is_the_end() {
        let mut backend = Backend::default();
        for at_ns in [1_000, 9_000] {
            backend.begin_write(Page::Data, PAGE, at_ns);
            backend.begin_write(Page::Meta, PAGE, at_ns + 20);
            assert_eq!(backend.end_meta(at_ns + 25), 25, "commit at {at_ns}");
        }
    }

    #[test]
    fn an_unreadable_page_is_classified_by_the_length_of_the_last() {
        let mut backend = Backend::default();
        assert_eq!(backend.guess_page(0, PAGE), Page::Data, "no meta page was written before");
        commit(&mut backend, 1_000);
        assert_eq!(backend.guess_page(0, PAGE), Page::Meta, "page 0");
        assert_eq!(backend.guess_page(PAGE, PAGE), Page::Meta, "page 1");
        assert_eq!(backend.guess_page(5 * PAGE, 5 * PAGE), Page::Data, "five pages at page five");
    }
}
