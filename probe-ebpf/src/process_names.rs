//! Names of the processes to measure.

/// Bytes of a thread's name, terminator included: `TASK_COMM_LEN` of `include/linux/sched.h`.
pub const COMM_BYTES: usize = 16;

/// Process names that the programs compare with, at most.
pub const PROCESS_NAMES_MAX: usize = 4;

/// The names, as two words each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessNames {
    pub words: [[u64; 2]; PROCESS_NAMES_MAX],
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, `Copy` and only `u64` fields: no padding, and every bit pattern is valid.
unsafe impl aya::Pod for ProcessNames {}

/// An unused entry: a thread's name ends with a zero byte, so no name equals it.
const UNUSED: [u64; 2] = [u64::MAX; 2];

impl ProcessNames {
    pub const NONE: Self = Self { words: [UNUSED; PROCESS_NAMES_MAX] };

    /// Returns whether a thread's name, as two words, is one of these.
    #[inline(always)]
    pub fn contains(&self, [low, high]: [u64; 2]) -> bool {
        let mut index = 0;
        while index < PROCESS_NAMES_MAX {
            // SAFETY: a field of a reference, so it is valid and aligned; volatile, because the daemon sets
            // it after the compiler has seen its initial value.
            let name = unsafe { core::ptr::read_volatile(&raw const self.words[index]) };
            // The names are constants to the verifier, so it removes the comparisons with unused entries.
            if name[0] == UNUSED[0] {
                return false;
            }
            if name[0] == low && name[1] == high {
                return true;
            }
            index += 1;
        }
        false
    }

    /// Adds a name, truncated as the kernel does; returns false if the table is full or the name is empty.
    pub fn add(&mut self, name: &str) -> bool {
        let mut comm = [0; COMM_BYTES];
        for (to, from) in comm.iter_mut().take(COMM_BYTES - 1).zip(name.bytes()) {
            *to = from;
        }
        match self.words.iter_mut().find(|words| **words == UNUSED) {
            Some(free) if comm[0] != 0 => {
                *free = words(&comm);
                true
            }
            _ => false,
        }
    }
}

/// Returns a thread's name as two words.
fn words(comm: &[u8; COMM_BYTES]) -> [u64; 2] {
    // SAFETY: sixteen bytes are two words of any bit pattern, and the read requires no alignment.
    unsafe { comm.as_ptr().cast::<[u64; 2]>().read_unaligned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_truncated_like_the_kernels() {
        let mut names = ProcessNames::NONE;
        assert!(names.add("etcd"));
        assert!(names.add("a-name-longer-than-fifteen"));
        let cases = [
            (b"etcd\0\0\0\0\0\0\0\0\0\0\0\0", true, "the first"),
            (b"a-name-longer-t\0", true, "the second, truncated"),
            (b"etcdctl\0\0\0\0\0\0\0\0\0", false, "longer than a name"),
            (b"etc\0\0\0\0\0\0\0\0\0\0\0\0\0", false, "shorter than a name"),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", false, "a thread without a name equals no unused entry"),
        ];
        for (comm, expected, why) in cases {
            assert_eq!(names.contains(words(comm)), expected, "{why}");
        }
        assert!(!names.add(""), "an empty name would match threads without a name");
        assert!(names.add("third") && names.add("fourth"));
        assert!(!names.add("fifth"), "the table holds four");
    }
}
