//! Determines the role of a file by its own name, which no rename of its directory changes.
//!
//! Names as etcd 3.4 to 3.6 create them: `server/storage/wal/util.go` (`walName`), `wal/file_pipeline.go`,
//! `api/snap/snapshotter.go`, `api/snap/db.go`, `storage/backend/backend.go` (`defrag`).

use crate::series::Role;

/// Words of a name that determine its role: 40 bytes; etcd's longest name takes 38.
pub const NAME_WORDS: usize = 5;

/// The first bytes of a name in memory order. Whole words, because the BPF instruction set compares a word as
/// fast as a byte, and the verifier has to follow both branches of each comparison.
pub type NameWords = [u64; NAME_WORDS];

/// A name of which the role is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedName {
    pub role: Role,
    /// A rotation truncates a full segment only; etcd may truncate `N.tmp` when it pre-allocates the file.
    pub is_segment: bool,
}

impl ParsedName {
    /// Returns the name as a number.
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        (self.role as u32) << 1 | self.is_segment as u32
    }

    /// Returns the name that was packed as this number.
    #[inline(always)]
    pub const fn unpack(packed: u32) -> Self {
        let role = match packed >> 1 {
            0 => Role::Wal,
            1 => Role::WalDir,
            2 => Role::Backend,
            3 => Role::Snapshot,
            _ => Role::Defrag,
        };
        Self { role, is_segment: packed & 1 != 0 }
    }
}

/// Returns whether a name of this length can be that of a traced file; most descriptors are sockets.
#[inline(always)]
pub const fn is_plausible_length(length: u32) -> bool {
    // The longest is `%016x-%016x.snap`, 38 bytes.
    length >= 2 && length <= 38
}

/// Parses the name of a file; `None` if etcd gives no traced file such a name.
///
/// The name of a directory implies no role: see `Target::wal_dir_inode`.
#[inline(always)]
pub fn parse_words(name: &NameWords, length: u32) -> Option<ParsedName> {
    let [first, _, third, _, fifth] = *name;
    let other = |role| Some(ParsedName { role, is_segment: false });
    match length {
        37 if is_segment(name) => Some(ParsedName { role: Role::Wal, is_segment: true }),
        // `file_pipeline.go` pre-allocates under two names in turn; only the first character differs.
        5 if first & bytes(5) & !1 == word(*b"0.tmp\0\0\0") => other(Role::Wal),
        2 if first & bytes(2) == word(*b"db\0\0\0\0\0\0") => other(Role::Backend),
        8.. if first & bytes(7) == word(*b"db.tmp.\0") => other(Role::Defrag),
        // `ioutil.TempFile(dir, "tmp")`: a database that is being received from the leader.
        4.. if first & bytes(3) == word(*b"tmp\0\0\0\0\0") => other(Role::Snapshot),
        38 if (fifth >> 8) & bytes(5) == word(*b".snap\0\0\0") => other(Role::Snapshot),
        24 if third == word(*b".snap.db") => other(Role::Snapshot),
        _ => None,
    }
}

/// Parses the name of a file in user space.
pub fn parse(text: &[u8]) -> Option<ParsedName> {
    let mut bytes = [[0; 8]; NAME_WORDS];
    for (to, from) in bytes.as_flattened_mut().iter_mut().zip(text) {
        *to = *from;
    }
    let length = u32::try_from(text.len()).ok().filter(|length| is_plausible_length(*length))?;
    parse_words(&bytes.map(word), length)
}

/// Returns whether a name of 37 bytes is `%016x-%016x.wal`.
#[inline(always)]
fn is_segment(name: &NameWords) -> bool {
    let [first, second, third, fourth, fifth] = *name;
    // The second number begins at byte 17, so each of its words spans two words of the name.
    let across = [(third >> 8) | (fourth << 56), (fourth >> 8) | (fifth << 56)];
    let wrong = not_hex(first) | not_hex(second) | not_hex(across[0]) | not_hex(across[1]);
    let punctuation = ((third & bytes(1)) ^ 0x2d) | (((fifth >> 8) & bytes(4)) ^ word(*b".wal\0\0\0\0"));
    wrong | punctuation == 0
}

/// Returns 0 if all eight bytes are lower-case hexadecimal digits, without a branch.
#[inline(always)]
const fn not_hex(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x80 * EACH;
    // Adding 0x80 - c to a byte below 0x80 sets its top bit if it is c or more, and carries into no other.
    let low = word & !TOP;
    let digits = (low + (0x80 - 0x30) * EACH) & !(low + (0x80 - 0x3a) * EACH);
    let letters = (low + (0x80 - 0x61) * EACH) & !(low + (0x80 - 0x67) * EACH);
    ((digits | letters) & !word & TOP) ^ TOP
}

/// Returns a mask of the first `count` bytes in memory, up to seven.
#[inline(always)]
const fn bytes(count: u32) -> u64 {
    (1 << (8 * count)) - 1
}

/// Returns eight bytes as the word they are in memory.
#[inline(always)]
const fn word(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_in_memory(text: &str) -> Option<ParsedName> {
        // The bytes after a name in the kernel's memory must not matter.
        let mut name = [0xa5; 8 * NAME_WORDS];
        let kept = text.len().min(name.len());
        name[..kept].copy_from_slice(&text.as_bytes()[..kept]);
        let name: NameWords = core::array::from_fn(|at| word(name[8 * at..][..8].try_into().unwrap()));
        let length = u32::try_from(text.len()).unwrap();
        if is_plausible_length(length) { parse_words(&name, length) } else { None }
    }

    #[test]
    fn unpack_reverses_pack() {
        for role in [Role::Wal, Role::WalDir, Role::Backend, Role::Snapshot, Role::Defrag] {
            for is_segment in [false, true] {
                let name = ParsedName { role, is_segment };
                assert_eq!(ParsedName::unpack(name.pack()), name);
            }
        }
    }

    #[test]
    fn names_of_etcd_have_their_roles() {
        let wal = |is_segment| Some(ParsedName { role: Role::Wal, is_segment });
        let other = |role| Some(ParsedName { role, is_segment: false });
        let cases = [
            ("0000000000000000-0000000000000000.wal", wal(true), "the first segment"),
            ("00000000000000ff-00000000000a0b1c.wal", wal(true), "a later segment"),
            ("0.tmp", wal(false), "pre-allocated"),
            ("1.tmp", wal(false), "pre-allocated"),
            ("2.tmp", None, "the pipeline has two names only"),
            ("0000000000000000-000000000000000G.wal", None, "not hexadecimal"),
            (
                "0000000000000000-0000000000000000.wal.broken",
                None,
                "a copy that a repair keeps is not synced",
            ),
            ("0000000000000000_0000000000000000.wal", None, "no dash"),
            ("db", other(Role::Backend), "bbolt"),
            ("dx", None, "another name of two letters"),
            ("db.tmp.123456789", other(Role::Defrag), "a defragmentation"),
            ("db.tmp.", None, "no random part"),
            ("tmp123456789", other(Role::Snapshot), "a database being received"),
            ("tmp", None, "no random part"),
            ("0000000000000002-0000000000002711.snap", other(Role::Snapshot), "a raft snapshot"),
            ("000000000000272d.snap.db", other(Role::Snapshot), "a database received"),
            ("", None, "a socket without a name"),
            ("TCP", None, "a socket"),
            ("abcdefghijklmnop-0000000000000000.wal", None, "letters beyond f"),
            ("0000000000000000-000000000000000\u{e9}.wa", None, "a byte beyond ASCII"),
            ("0000000000000000-0000000000000000.waL", None, "another ending"),
            ("0000000000000000-0000000000000000.snaq", None, "another ending"),
            ("3.tmp", None, "its lowest bit is that of 1"),
            ("[eventpoll]", None, "an anonymous inode"),
        ];
        for (name, expected, why) in cases {
            assert_eq!(parse_in_memory(name), expected, "{name}: {why}");
            assert_eq!(parse(name.as_bytes()), expected, "{name}: {why}, in user space");
        }
    }

    #[test]
    fn hexadecimal_digits_are_recognised_at_every_byte() {
        for byte in 0..=u8::MAX {
            let is_hex = byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            for index in 0..8 {
                let mut all = *b"01289aef";
                all[index] = byte;
                assert_eq!(not_hex(word(all)) == 0, is_hex, "{byte:#x} at byte {index}");
            }
        }
    }
}
