//! What a blocked thread waits for, named from its kernel stack by one table. Pure.
//!
//! A stack is what `/proc/PID/task/TID/stack` prints: the innermost frame first, functions that the compiler inlined missing.
//! Names are those of Linux 5.10 to 7.x, where most of what waits for a page was renamed for folios in 5.16 (`wait_on_page_bit` is
//! `folio_wait_bit` since). Stacking file systems such as overlayfs are transparent: their frames are in no rule.

use std::ops::{Index, IndexMut};

/// What blocked time was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Cause {
    /// The device's write cache: a flush sent by the thread itself, which waits for its end.
    Flush,
    /// Data of the file on its way to the device.
    DataWriteback,
    /// A commit, or room in the log, of the file system's journal, which all its files share.
    Journal,
    /// A block that describes the file: inode, bitmap, tree.
    Metadata,
    /// A place for a request in the block layer: nothing was sent to the device yet.
    RequestQueue,
    /// The kernel holds back who dirties memory faster than it can be written.
    DirtyThrottling,
    /// A lock of the kernel, which somebody else holds.
    Lock,
    /// The file system is frozen (`fsfreeze`, a snapshot of the volume).
    Frozen,
    /// None of these, or the thread did not wait when it was looked at.
    Other,
    /// Blocked time for which no stack was taken. No stack has this name.
    Unsampled,
}

/// One value for each [`Cause`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerCause<T>([T; Cause::ALL.len()]);

impl<T> PerCause<T> {
    /// Calls a function for each cause.
    pub fn from_fn(value: impl FnMut(Cause) -> T) -> Self {
        Self(Cause::ALL.map(value))
    }

    /// Returns the values in the order of [`Cause::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

impl<T> Index<Cause> for PerCause<T> {
    type Output = T;

    fn index(&self, cause: Cause) -> &T {
        &self.0[cause as usize]
    }
}

impl<T> IndexMut<Cause> for PerCause<T> {
    fn index_mut(&mut self, cause: Cause) -> &mut T {
        &mut self.0[cause as usize]
    }
}

impl Cause {
    pub const ALL: [Self; 10] = [
        Self::Flush,
        Self::DataWriteback,
        Self::Journal,
        Self::Metadata,
        Self::RequestQueue,
        Self::DirtyThrottling,
        Self::Lock,
        Self::Frozen,
        Self::Other,
        Self::Unsampled,
    ];

    /// Returns the value of the label `cause`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::DataWriteback => "data_writeback",
            Self::Journal => "journal",
            Self::Metadata => "metadata",
            Self::RequestQueue => "request_queue",
            Self::DirtyThrottling => "dirty_throttling",
            Self::Lock => "lock",
            Self::Frozen => "frozen",
            Self::Other => "other",
            Self::Unsampled => "unsampled",
        }
    }
}

/// Functions that name a cause wherever they are in a stack; a `*` at the end stands for any rest.
struct Rule {
    cause: Cause,
    functions: &'static [&'static str],
    /// One of these has to be in the stack, too, unless there are none: for what says nothing without its caller.
    within: &'static [&'static str],
}

/// The first rule that matches any frame decides.
///
/// The order is that of what would have to go away for the thread to run, not that of the frames: a write of the journal that finds
/// no request free waits for a request, and a wait for writeback within a commit waits for the commit. So the rules go from what
/// is specific to who merely asked: the outermost, `file_write_and_wait_range`, is in nearly every stack.
const RULES: [Rule; 13] = [
    // Memory that ran short, and pages that have to be read back, lie below anything: a write that reclaims memory waits
    // in the same functions for other files' pages.
    rule(
        Cause::Other,
        &[
            "try_to_free_pages",
            "try_to_free_mem_cgroup_pages",
            "reclaim_throttle",
            "throttle_direct_reclaim",
            "__mem_cgroup_handle_over_high", // since Linux 6.8; without the underscores before
            "mem_cgroup_handle_over_high",
            "filemap_fault",
            "do_swap_page",
        ],
    ),
    // Answers of a server: there is no block device of ours below (fs/fuse/dev.c, net/sunrpc/sched.c).
    rule(Cause::Other, &["request_wait_answer", "rpc_wait_bit_killable", "nfs_wait_bit_killable"]),
    // Whoever submits in behalf of whatever, and gets no request, waits for one. `blk_mq_get_tag`: all are in use; `rq_qos_wait`:
    // wbt, iolatency, and iocost (`ioc_rqos_throttle`) hold back; `blk_queue_enter`: the queue is frozen or suspended. md and its like have queues
    // of their own. (`io.max` does not show here: the bio is taken and kept, and the thread waits for its end.)
    rule(
        Cause::RequestQueue,
        &[
            "blk_mq_get_tag",
            "blk_mq_get_request", // before Linux 5.8; vendors' kernels keep it
            "wbt_wait",
            "rq_qos_wait",
            "__rq_qos_throttle",
            "ioc_rqos_throttle",
            "blk_queue_enter",
            "__bio_queue_enter",
            "bio_alloc_bioset", // with `mempool_alloc` below it: no bio is free
            "raid5_get_active_stripe",
            "md_write_start",
            "wait_barrier", // raid1 and raid10
        ],
    ),
    // ext4 takes a lock of the same kind round writeback (`s_writepages_rwsem`): to wait for that is no freeze.
    Rule { cause: Cause::Lock, functions: &["percpu_rwsem_wait"], within: &["ext4_writepages"] },
    // The per-CPU lock that a thread finds taken in `write` is the superblock's (fs/super.c, kernel/locking/percpu-rwsem.c):
    // `__sb_start_write` is a function up to Linux 5.10 and inlined later, the waiting has one name in all.
    rule(
        Cause::Frozen,
        &[
            "__sb_start_write",
            "sb_start_write*",
            "percpu_rwsem_wait",
            "__percpu_down_read",
            "sb_start_intwrite",
        ],
    ),
    rule(Cause::DirtyThrottling, &["balance_dirty_pages*"]),
    // btrfs waits for the flushes of its devices in functions that the compiler inlines (`barrier_all_devices`, `wait_dev_flush`);
    // it waits for a completion nowhere else as it writes superblocks (fs/btrfs/disk-io.c).
    Rule { cause: Cause::Flush, functions: &["wait_for_completion_io"], within: &["write_all_supers"] },
    // Before the journal: a fast commit of ext4 and the superblocks of btrfs send flushes in the thread that syncs, and it is
    // the device that the thread waits for then. In a full commit of ext4 or XFS another thread sends it; that reads as `journal`.
    rule(
        Cause::Flush,
        &[
            "blkdev_issue_flush*",
            "xfs_blkdev_issue_flush", // up to Linux 5.11
            "xfs_flush_bdev*",
            "barrier_all_devices",
            "wait_dev_flush",
            "md_flush_request",
            "f2fs_issue_flush",
            "submit_flush_wait",
        ],
    ),
    // Before all that a commit does by itself: its buffers, its locks, and the data of others that it waits for. (A thread's own
    // data is written before it asks for a commit: ext4_sync_file, xfs_file_fsync, btrfs_sync_file.)
    rule(
        Cause::Journal,
        &[
            // ext4 (fs/jbd2, fs/ext4/fast_commit.c)
            "jbd2_*",
            "__jbd2_*",
            "start_this_handle",
            "wait_transaction_locked",
            "wait_transaction_switching",
            "add_transaction_credits",
            "do_get_write_access",
            "ext4_fc_commit",
            "ext4_fc_perform_commit",
            "ext4_fc_wait_*",
            "ext4_fc_start_update",
            // XFS (fs/xfs/xfs_log.c, xfs_log_cil.c)
            "xlog_*",
            "xfs_log_*",
            "__xfs_log_force*",
            "xfs_ail_push_all_sync",
            // btrfs: its log tree, and its transactions
            "btrfs_sync_log",
            "btrfs_wait_log_commit",
            "wait_log_commit",
            "start_log_trans",
            "btrfs_commit_transaction*",
            "btrfs_wait_for_commit",
            "wait_for_commit",
            "wait_current_trans",
            "write_all_supers",
            "btrfs_write_and_wait_transaction",
            // f2fs
            "f2fs_issue_checkpoint",
            "f2fs_write_checkpoint",
        ],
    ),
    // A page that is written in part is read first. That is data, and no writing; there is no name for it.
    rule(
        Cause::Other,
        &[
            "__block_write_begin_int",
            "ext4_block_write_begin",
            "iomap_read_folio_sync",
            "iomap_read_page_sync",
        ],
    ),
    // Before locks: a buffer is locked for as long as it is on its way, and `down` below `xfs_buf_lock` is that.
    rule(
        Cause::Metadata,
        &[
            "__wait_on_buffer",
            "__lock_buffer",
            "__sync_dirty_buffer",
            "sync_dirty_buffer",
            "sync_mapping_buffers",
            "__bread_gfp",
            "xfs_buf_*",
            "_xfs_buf_*",
            "read_extent_buffer_pages*",
            "btrfs_read_extent_buffer",
            "btree_read_extent_buffer_pages",
            "read_tree_block",
            "wait_reserve_ticket", // btrfs: room for metadata has to be made
            "f2fs_get_meta_page*",
            "ext4_write_inode",
            "sync_inode_metadata",
        ],
    ),
    // Before data: a lock of the inode's map of blocks is taken within writeback. Names of PREEMPT_RT included (`rwbase_`, `rt_`).
    rule(
        Cause::Lock,
        &[
            "__mutex_lock*",
            "mutex_lock*",
            "rwsem_down_*",
            "down_read*",
            "down_write*",
            "down",
            "__down*",
            "rwbase_*",
            "rt_mutex_*",
            "__rt_mutex_*",
            "rt_spin_lock",
            "rtlock_slowlock*",
            "__folio_lock*",
            "__lock_page*", // up to Linux 5.15
            "btrfs_lock_root_node",
            "inode_dio_wait",
        ],
    ),
    rule(
        Cause::DataWriteback,
        &[
            "folio_wait_writeback*",
            "folio_wait_stable",
            "wait_on_page_writeback*", // up to Linux 5.15, and as a wrapper later
            "wait_for_stable_page",
            "__filemap_fdatawait_range",
            "filemap_fdatawait_range*",
            "btrfs_wait_ordered_*",
            "btrfs_start_ordered_extent*",
            "__iomap_dio_rw",
            "submit_bio_wait",
            "file_write_and_wait_range",
            "filemap_write_and_wait_range",
            "do_writepages",
        ],
    ),
];

const fn rule(cause: Cause, functions: &'static [&'static str]) -> Rule {
    Rule { cause, functions, within: &[] }
}

/// Frames of the scheduler and of waiting in general, which say that a thread waits and not for what, and those of the system call
/// itself.
const NOT_TELLING: [&str; 26] = [
    "schedule",
    "__schedule",
    "schedule_*",
    "io_schedule*",
    "wait_for_completion*",
    "wait_for_common*",
    "__wait_for_common",
    "bit_wait*",
    "__wait_on_bit*",
    "out_of_line_wait_on_bit*",
    "folio_wait_bit*",
    "wait_on_page_bit*",
    "percpu_rwsem_wait",
    "rwsem_down_*",
    "do_syscall_64",
    "entry_SYSCALL_64*",
    "entry_SYSENTER*",
    "x64_sys_call",
    "__x64_sys_*",
    "__do_sys_*",
    "__se_sys_*",
    "__arm64_sys_*",
    "invoke_syscall*",
    "el0*",
    "do_el0_svc",
    "ret_from_fork*",
];

/// Frames that a report shows of a stack.
const SHOWN: usize = 4;

/// Returns what a thread with this stack waits for.
pub fn cause_of(frames: &[&str]) -> Cause {
    let has = |functions: &[&str]| frames.iter().any(|frame| is_any(frame, functions));
    let decides = |rule: &&Rule| has(rule.functions) && (rule.within.is_empty() || has(rule.within));
    RULES.iter().find(decides).map_or(Cause::Other, |rule| rule.cause)
}

/// Returns the names of the functions in a stack as `/proc` prints it, the innermost first.
///
/// `[<0>] xlog_wait_on_iclog.isra.0+0x13c/0x340 [xfs]` is `xlog_wait_on_iclog`.
pub fn frames(text: &str) -> Vec<&str> {
    text.lines().filter_map(function).collect()
}

/// Returns the innermost frames that tell something, as a report shows them.
pub fn top_frames(frames: &[&str]) -> String {
    let telling = frames.iter().copied().filter(|frame| !is_any(frame, &NOT_TELLING));
    telling.take(SHOWN).collect::<Vec<_>>().join(" < ")
}

fn function(line: &str) -> Option<&str> {
    let line = line.trim();
    // The address is 0 since Linux 4.16, and a number before.
    let line = line.split_once("] ").filter(|_| line.starts_with("[<")).map_or(line, |(_, rest)| rest);
    // No function of C has a dot in its name: what follows one, the compiler added (`.isra.0`, `.constprop.0`, `.part.0`, `.cold`).
    let name = line.split(['+', '.', ' ']).next()?;
    // Old kernels end a stack with the address 0xffffffffffffffff.
    (!name.is_empty() && !name.starts_with("0x")).then_some(name)
}

fn is_any(frame: &str, functions: &[&str]) -> bool {
    functions.iter().any(|function| match function.strip_suffix('*') {
        Some(beginning) => frame.starts_with(beginning),
        None => frame == *function,
    })
}

#[cfg(test)]
mod tests;
