//! Offsets of the kernel structures' fields that the programs read.
//!
//! Rust emits no CO-RE relocations, so the daemon looks up the offsets in the running kernel's BTF and sets
//! them in a global before it loads the programs.

/// Byte offsets in the kernel's structures; constants to the verifier.
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
    /// Offsets in `pt_regs` of the first four arguments of a system call; the registers depend on the
    /// architecture
    pub regs_arguments: [u32; 4],
    /// `task_struct.se.sum_exec_runtime`; like all fields below, [`ABSENT`] if the kernel does not have it
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
    /// `bio.bi_disk`, before Linux 5.12
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
    /// `request.rq_disk`, before Linux 5.17
    pub request_disk: u32,
    /// `request.q`; `request_queue.disk`, since Linux 5.14
    pub request_queue: u32,
    pub queue_disk: u32,
    /// `REQ_PREFLUSH | REQ_FUA`
    pub flush_flags: u32,
    /// Index of the bio or request in the arguments of `block_bio_queue`, `block_bio_complete` and
    /// `block_rq_issue`: before Linux 5.11 a queue comes first
    pub bio_queue_argument: u32,
    pub bio_complete_argument: u32,
    pub rq_issue_argument: u32,
}

/// The offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

impl Offsets {
    /// The values in the object file, before the daemon sets them.
    pub const UNSET: Self = Self {
        task_files: 0,
        task_group_leader: 0,
        task_start: 0,
        files_fdt: 0,
        fdt_max_fds: 0,
        fdt_fd: 0,
        file_dentry: 0,
        dentry_hash_len: 0,
        dentry_name: 0,
        dentry_parent: 0,
        dentry_inode: 0,
        inode_number: 0,
        inode_sb: 0,
        sb_dev: 0,
        regs_arguments: [0; 4],
        task_exec: ABSENT,
        task_run_delay: ABSENT,
        task_state: ABSENT,
        task_flags: ABSENT,
        task_cgroups: ABSENT,
        task_tgid: ABSENT,
        task_pid: ABSENT,
        task_comm: ABSENT,
        css_set_io: ABSENT,
        css_cgroup: ABSENT,
        cgroup_kn: ABSENT,
        kn_id: ABSENT,
        file_pos: ABSENT,
        bio_bdev: ABSENT,
        bdev_dev: ABSENT,
        bio_disk: ABSENT,
        disk_major: ABSENT,
        disk_first_minor: ABSENT,
        bio_opf: ABSENT,
        bio_size: ABSENT,
        bio_blkg: ABSENT,
        blkg_blkcg: ABSENT,
        blkcg_cgroup: ABSENT,
        bio_next: ABSENT,
        request_bio: ABSENT,
        request_flags: ABSENT,
        request_disk: ABSENT,
        request_queue: ABSENT,
        queue_disk: ABSENT,
        flush_flags: 0,
        bio_queue_argument: 0,
        bio_complete_argument: 0,
        rq_issue_argument: 0,
    };
}

const _: () = assert!(size_of::<Offsets>() == 4 * 51, "no padding allowed");

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, `Copy` and only `u32` fields: no padding, and every bit pattern is valid.
unsafe impl aya::Pod for Offsets {}
