//! Where the fields are that the kernel programs read.
//!
//! Rust emits no CO-RE relocations, so the daemon looks the offsets up in the running kernel's BTF and sets them as a
//! global before it loads the programs.

/// Byte offsets within the kernel's structures; the verifier sees them as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `task_struct.files`
    pub task_files: u32,
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.start_boottime`, ns since boot; named so since Linux 5.5
    pub task_start: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.max_fds`
    pub fdt_max_fds: u32,
    /// `fdtable.fd`
    pub fdt_fd: u32,
    /// `file.f_path.dentry`
    pub file_dentry: u32,
    /// `dentry.d_name.hash_len`; the length is its upper half
    pub dentry_hash_len: u32,
    /// `dentry.d_name.name`
    pub dentry_name: u32,
    /// `dentry.d_parent`
    pub dentry_parent: u32,
    /// `dentry.d_inode`
    pub dentry_inode: u32,
    /// `inode.i_ino`
    pub inode_number: u32,
    /// `inode.i_sb`
    pub inode_sb: u32,
    /// `super_block.s_dev`
    pub sb_dev: u32,
    /// Where `pt_regs` keeps the first four arguments of a system call; other registers on other machines
    pub regs_arguments: [u32; 4],
    /// `task_struct.se.sum_exec_runtime`; [`ABSENT`] if the kernel has none, as may be any of those below
    pub task_exec: u32,
    /// `task_struct.sched_info.run_delay`
    pub task_run_delay: u32,
    /// `task_struct.__state`, `state` before Linux 5.14
    pub task_state: u32,
    /// `task_struct.flags`
    pub task_flags: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `task_struct.tgid`, `pid`, `comm`
    pub task_tgid: u32,
    pub task_pid: u32,
    pub task_comm: u32,
    /// `css_set.subsys[io_cgrp_id]`
    pub css_set_io: u32,
    /// `cgroup_subsys_state.cgroup`
    pub css_cgroup: u32,
    /// `cgroup.kn`
    pub cgroup_kn: u32,
    /// `kernfs_node.id`
    pub kn_id: u32,
    /// `file.f_pos`
    pub file_pos: u32,
    /// `bio.bi_bdev`, since Linux 5.12
    pub bio_bdev: u32,
    /// `block_device.bd_dev`
    pub bdev_dev: u32,
    /// `bio.bi_disk`, before
    pub bio_disk: u32,
    /// `gendisk.major`, `gendisk.first_minor`
    pub disk_major: u32,
    pub disk_first_minor: u32,
    /// `bio.bi_opf`
    pub bio_opf: u32,
    /// `bio.bi_iter.bi_size`
    pub bio_size: u32,
    /// `bio.bi_blkg`
    pub bio_blkg: u32,
    /// `blkcg_gq.blkcg`
    pub blkg_blkcg: u32,
    /// `blkcg.css.cgroup`
    pub blkcg_cgroup: u32,
    /// `bio.bi_next`
    pub bio_next: u32,
    /// `request.bio`, `request.cmd_flags`
    pub request_bio: u32,
    pub request_flags: u32,
    /// `request.rq_disk`; gone since Linux 5.17
    pub request_disk: u32,
    /// `request.q` and `request_queue.disk`, which is since Linux 5.14
    pub request_queue: u32,
    pub queue_disk: u32,
    /// `REQ_PREFLUSH | REQ_FUA`
    pub flush_flags: u32,
    /// Where `block_bio_queue`, `block_bio_complete` and `block_rq_issue` have the bio or request: a queue comes first
    /// before Linux 5.11
    pub bio_queue_argument: u32,
    pub bio_complete_argument: u32,
    pub rq_issue_argument: u32,
}

/// An offset of what this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

const _: () = assert!(size_of::<Offsets>() == 4 * 51, "no padding allowed");

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, `Copy` and only `u32` fields: no padding, and every bit pattern is valid.
unsafe impl aya::Pod for Offsets {}

/// Bytes of a thread's name, terminator included: `TASK_COMM_LEN` of `include/linux/sched.h`.
pub const COMM_BYTES: usize = 16;

/// Process names that the kernel looks for at most.
pub const NAMES: usize = 4;

/// The names as two words each.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    pub words: [[u64; 2]; NAMES],
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, `Copy` and only `u64` fields: no padding, and every bit pattern is valid.
unsafe impl aya::Pod for Names {}

/// An unused entry: a thread's name ends with a zero byte, so none is like this.
const UNUSED: [u64; 2] = [u64::MAX; 2];

impl Names {
    pub const NONE: Self = Self { words: [UNUSED; NAMES] };

    /// Returns whether a thread's name, as two words, is one of these.
    #[inline(always)]
    pub fn contain(&self, [low, high]: [u64; 2]) -> bool {
        let mut at = 0;
        while at < NAMES {
            // SAFETY: a field of a reference; volatile, because the daemon sets it after the compiler has seen it.
            let name = unsafe { core::ptr::read_volatile(&raw const self.words[at]) };
            // The verifier knows the names, and removes what compares those that are not used.
            if name[0] == UNUSED[0] {
                return false;
            }
            if name[0] == low && name[1] == high {
                return true;
            }
            at += 1;
        }
        false
    }

    /// Adds a name, cut as the kernel cuts it; returns false if there is no room or the name is empty.
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
    // SAFETY: sixteen bytes are two words of any bit pattern, and the read asks for no alignment.
    unsafe { comm.as_ptr().cast::<[u64; 2]>().read_unaligned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_like_the_kernels() {
        let mut names = Names::NONE;
        assert!(names.add("etcd"));
        assert!(names.add("a-name-longer-than-fifteen"));
        let cases = [
            (b"etcd\0\0\0\0\0\0\0\0\0\0\0\0", true, "the first"),
            (b"a-name-longer-t\0", true, "the second, cut"),
            (b"etcdctl\0\0\0\0\0\0\0\0\0", false, "longer than a name"),
            (b"etc\0\0\0\0\0\0\0\0\0\0\0\0\0", false, "shorter than a name"),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", false, "a thread without a name is like no unused entry"),
        ];
        for (comm, expected, why) in cases {
            assert_eq!(names.contain(words(comm)), expected, "{why}");
        }
        assert!(!names.add(""), "an empty name would match every unused entry");
        assert!(names.add("third") && names.add("fourth"));
        assert!(!names.add("fifth"), "the table holds four");
    }
}
