//! The cause for which a thread is blocked, derived from its kernel stack by one table. Pure.
//!
//! A stack is the content of `/proc/PID/task/TID/stack`: the innermost frame first, without functions that
//! the compiler inlined. Names are from Linux 5.10 to 7.x; 5.16 renamed most functions that wait for a page
//! for folios (`wait_on_page_bit` became `folio_wait_bit`). Stacking file systems such as overlayfs are
//! transparent: no rule contains their frames.

use std::ops::{Index, IndexMut};

/// The cause of blocked time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Cause {
    /// A flush of the device's write cache, sent by the thread itself.
    Flush,
    /// Data of the file on its way to the device.
    DataWriteback,
    /// A commit, or room in the log, of the file system's journal, which all its files share.
    Journal,
    /// A metadata block of the file: inode, bitmap, tree.
    Metadata,
    /// A free request in the block layer: nothing was sent to the device yet.
    RequestQueue,
    /// The kernel throttles the thread because memory is dirtied faster than it can be written back.
    DirtyThrottling,
    /// A kernel lock that another task holds.
    Lock,
    /// The file system is frozen (`fsfreeze`, a snapshot of the volume).
    Frozen,
    /// None of these, or the thread did not wait when it was sampled.
    Other,
    /// Blocked time without a sampled stack. No stack leads to this cause.
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

/// Functions that indicate a cause anywhere in a stack; a trailing `*` matches any rest.
struct Rule {
    cause: Cause,
    functions: &'static [&'static str],
    /// If not empty, one of these must also be in the stack: for functions that indicate a cause only with
    /// their caller.
    within: &'static [&'static str],
}

/// The first rule that matches any frame decides.
///
/// The order follows the obstacle that must disappear for the thread to run, not the order of the frames: a
/// journal write without a free request waits for a request, and a wait for writeback within a commit waits
/// for the commit. So rules go from specific waits to general callers: the outermost function,
/// `file_write_and_wait_range`, is in nearly every stack.
const RULES: [Rule; 13] = [
    // Memory shortage and pages that must be read back can occur below any function: a write that reclaims
    // memory waits in the same functions for pages of other files.
    rule(
        Cause::Other,
        &[
            "try_to_free_pages",
            "try_to_free_mem_cgroup_pages",
            "reclaim_throttle",
            "throttle_direct_reclaim",
            "__mem_cgroup_handle_over_high", // since Linux 6.8; earlier without the underscores
            "mem_cgroup_handle_over_high",
            "filemap_fault",
            "do_swap_page",
        ],
    ),
    // Responses of a server: no local block device is below (fs/fuse/dev.c, net/sunrpc/sched.c).
    rule(Cause::Other, &["request_wait_answer", "rpc_wait_bit_killable", "nfs_wait_bit_killable"]),
    // A thread that submits I/O for any purpose and gets no request waits for one. `blk_mq_get_tag`: all tags
    // are in use; `rq_qos_wait`: wbt, iolatency and iocost (`ioc_rqos_throttle`) throttle; `blk_queue_enter`:
    // the queue is frozen or suspended. md and similar drivers have queues of their own. (`io.max` does not
    // appear here: the kernel accepts and holds the bio, and the thread waits for its completion.)
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
    // ext4 takes a lock of the same type around writeback (`s_writepages_rwsem`): a wait for that is not a
    // freeze.
    Rule { cause: Cause::Lock, functions: &["percpu_rwsem_wait"], within: &["ext4_writepages"] },
    // The per-CPU lock that blocks a `write` is the superblock's (fs/super.c, kernel/locking/percpu-rwsem.c):
    // `__sb_start_write` is a function up to Linux 5.10 and inlined later; the waiting function has one name
    // in all versions.
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
    // btrfs waits for the flushes of its devices in functions that the compiler inlines
    // (`barrier_all_devices`, `wait_dev_flush`). While it writes superblocks, it waits for a completion
    // nowhere else (fs/btrfs/disk-io.c).
    Rule { cause: Cause::Flush, functions: &["wait_for_completion_io"], within: &["write_all_supers"] },
    // Before the journal: a fast commit of ext4 and a superblock write of btrfs send flushes in the syncing
    // thread, which then waits for the device. In a full commit of ext4 or XFS another thread sends the
    // flush; that counts as `journal`.
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
    // Before everything that a commit itself waits for: its buffers, its locks, and data of other files. (A
    // thread's own data is written before it requests a commit: ext4_sync_file, xfs_file_fsync,
    // btrfs_sync_file.)
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
    // A partially written page is read first. That is data but not writeback, and has no cause of its own.
    rule(
        Cause::Other,
        &[
            "__block_write_begin_int",
            "ext4_block_write_begin",
            "iomap_read_folio_sync",
            "iomap_read_page_sync",
        ],
    ),
    // Before locks: a buffer is locked while its I/O is in flight, which is `down` below `xfs_buf_lock`.
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
            "wait_reserve_ticket", // btrfs: space for metadata must be reclaimed
            "f2fs_get_meta_page*",
            "ext4_write_inode",
            "sync_inode_metadata",
        ],
    ),
    // Before data: the lock of an inode's block map is taken within writeback. Includes names of PREEMPT_RT
    // (`rwbase_`, `rt_`).
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

/// Frames that do not indicate a cause: the scheduler, waiting in general, and the system call itself.
const GENERIC_FRAMES: [&str; 26] = [
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

/// The number of frames of a stack in a report.
const SHOWN_FRAMES: usize = 4;

/// Returns the cause for which a thread with this stack is blocked.
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

/// Returns the innermost frames that indicate a cause, as a report shows them.
pub fn top_frames(frames: &[&str]) -> String {
    let specific = frames.iter().copied().filter(|frame| !is_any(frame, &GENERIC_FRAMES));
    specific.take(SHOWN_FRAMES).collect::<Vec<_>>().join(" < ")
}

fn function(line: &str) -> Option<&str> {
    let line = line.trim();
    // The address is 0 since Linux 4.16, and a real address before.
    let line = line.split_once("] ").filter(|_| line.starts_with("[<")).map_or(line, |(_, rest)| rest);
    // A C function has no dot in its name: the compiler adds suffixes (`.isra.0`, `.constprop.0`, `.part.0`,
    // `.cold`).
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
