//! Whole stacks of etcd threads as in `/proc`, and their causes.

use super::*;

/// Returns a stack of these functions, the innermost first; every stack ends in the same system call frames.
fn stack(functions: &str) -> Vec<&str> {
    let call = ["do_syscall_64", "entry_SYSCALL_64_after_hwframe"];
    functions.split_whitespace().chain(call).collect()
}

/// A stack, its cause, and its characteristic: the kernel version or the file system if the stack is specific
/// to it.
type Case = (&'static str, Cause, &'static str);

const CACHE: &[Case] = &[
    (
        "schedule io_schedule_timeout wait_for_completion_io submit_bio_wait blkdev_issue_flush ext4_sync_file \
             __x64_sys_fdatasync",
        Cause::Flush,
        "5.10 to 7.x, ext4: nothing to commit, so the thread flushes by itself",
    ),
    (
        "wait_for_completion_io_timeout submit_bio_wait blkdev_issue_flush __generic_file_fsync ext4_sync_file \
             do_fsync __x64_sys_fdatasync",
        Cause::Flush,
        "ext4 without a journal",
    ),
    (
        "wait_for_completion_io submit_bio_wait blkdev_issue_flush xfs_file_fsync do_fsync __x64_sys_fdatasync",
        Cause::Flush,
        "6.x, XFS: another thread wrote the log, but did not flush the cache",
    ),
    (
        "wait_for_completion_io submit_bio_wait blkdev_issue_flush xfs_blkdev_issue_flush xfs_file_fsync do_fsync",
        Cause::Flush,
        "5.10, XFS",
    ),
    (
        "wait_for_completion_io submit_bio_wait blkdev_issue_flush ext4_fc_commit ext4_sync_file do_fsync",
        Cause::Flush,
        "a fast commit flushes in the syncing thread",
    ),
    (
        "wait_for_completion_io write_all_supers btrfs_sync_log btrfs_sync_file do_fsync",
        Cause::Flush,
        "6.18, btrfs: the functions that wait for the flush are inlined",
    ),
    (
        "wait_for_completion_io wait_dev_flush barrier_all_devices write_all_supers btrfs_sync_log btrfs_sync_file",
        Cause::Flush,
        "5.10, btrfs: they are not",
    ),
    (
        "wait_for_completion_io submit_bio_wait blkdev_issue_flush jbd2_cleanup_journal_tail jbd2_log_do_checkpoint \
             __jbd2_log_wait_for_space add_transaction_credits start_this_handle jbd2__journal_start",
        Cause::Flush,
        "the thread makes room in the journal and waits for the device",
    ),
];

const DATA: &[Case] = &[
    (
        "io_schedule folio_wait_bit_common folio_wait_bit folio_wait_writeback __filemap_fdatawait_range \
             file_write_and_wait_range ext4_sync_file do_fsync __x64_sys_fdatasync",
        Cause::DataWriteback,
        "6.1 and later, ext4",
    ),
    (
        "io_schedule wait_on_page_bit_common wait_on_page_bit wait_on_page_writeback __filemap_fdatawait_range \
             file_write_and_wait_range xfs_file_fsync do_fsync __x64_sys_fdatasync",
        Cause::DataWriteback,
        "5.10, XFS: pages",
    ),
    (
        "schedule btrfs_start_ordered_extent btrfs_wait_ordered_range btrfs_sync_file do_fsync",
        Cause::DataWriteback,
        "6.1, btrfs",
    ),
    (
        "schedule btrfs_start_ordered_extent_nowriteback btrfs_wait_ordered_range btrfs_sync_file do_fsync",
        Cause::DataWriteback,
        "6.18, btrfs",
    ),
    (
        "io_schedule folio_wait_bit_common folio_wait_bit folio_wait_writeback folio_wait_stable ext4_da_write_begin \
             generic_perform_write ext4_buffered_write_iter vfs_write ksys_write",
        Cause::DataWriteback,
        "a write finds its page under writeback",
    ),
    (
        "io_schedule folio_wait_bit_common folio_wait_writeback __filemap_fdatawait_range file_write_and_wait_range \
             ext4_sync_file ovl_fsync do_fsync",
        Cause::DataWriteback,
        "overlayfs is transparent",
    ),
];

const JOURNAL: &[Case] = &[
    (
        "schedule jbd2_log_wait_commit jbd2_complete_transaction ext4_fc_commit ext4_sync_file do_fsync",
        Cause::Journal,
        "5.10 to 7.x, ext4: the function is also called with fast commits off",
    ),
    (
        "io_schedule bit_wait_io __wait_on_bit out_of_line_wait_on_bit __wait_on_buffer jbd2_fc_wait_bufs \
             ext4_fc_commit ext4_sync_file do_fsync",
        Cause::Journal,
        "a buffer of a fast commit belongs to the journal",
    ),
    (
        "io_schedule folio_wait_bit_common folio_wait_writeback __filemap_fdatawait_range \
             filemap_fdatawait_range_keep_errors jbd2_wait_inode_data ext4_fc_commit ext4_sync_file",
        Cause::Journal,
        "its own data is written; this is data of other files in the same commit",
    ),
    (
        "schedule wait_transaction_locked add_transaction_credits start_this_handle jbd2__journal_start \
             __ext4_journal_start_sb ext4_dirty_inode __mark_inode_dirty file_update_time ext4_buffered_write_iter",
        Cause::Journal,
        "a write waits for the running commit to let new handles in",
    ),
    (
        "io_schedule bit_wait_io __wait_on_bit out_of_line_wait_on_bit do_get_write_access \
             jbd2_journal_get_write_access __ext4_journal_get_write_access ext4_reserve_inode_write ext4_dirty_inode",
        Cause::Journal,
        "the block is being committed",
    ),
    (
        "mutex_lock_io __jbd2_log_wait_for_space add_transaction_credits start_this_handle jbd2__journal_start \
             ext4_do_writepages ext4_writepages do_writepages file_write_and_wait_range ext4_sync_file",
        Cause::Journal,
        "the journal is full; the thread that makes room holds the mutex",
    ),
    (
        "schedule xlog_wait_on_iclog xfs_log_force_seq xfs_file_fsync do_fsync __x64_sys_fdatasync",
        Cause::Journal,
        "6.x, XFS: the log's buffer is in flight",
    ),
    ("schedule __xfs_log_force_lsn xfs_log_force_lsn xfs_file_fsync do_fsync", Cause::Journal, "5.10, XFS"),
    (
        "schedule xlog_grant_head_wait xlog_grant_head_check xfs_log_reserve xfs_trans_reserve xfs_trans_alloc \
             xfs_vn_update_time file_update_time xfs_file_write_checks xfs_file_buffered_write",
        Cause::Journal,
        "no room in the log",
    ),
    (
        "schedule wait_log_commit btrfs_sync_log btrfs_sync_file do_fsync",
        Cause::Journal,
        "btrfs: another thread writes the log tree",
    ),
    (
        "io_schedule folio_wait_bit_common folio_wait_writeback __filemap_fdatawait_range filemap_fdatawait_range \
             btrfs_wait_tree_log_extents btrfs_sync_log btrfs_sync_file",
        Cause::Journal,
        "btrfs: the data written here is the log",
    ),
    (
        "schedule wait_for_commit btrfs_commit_transaction btrfs_sync_file do_fsync",
        Cause::Journal,
        "btrfs: the log could not be used, a whole transaction is committed",
    ),
];

const METADATA: &[Case] = &[
    (
        "io_schedule bit_wait_io __wait_on_bit out_of_line_wait_on_bit __wait_on_buffer __sync_dirty_buffer \
             ext4_write_inode __writeback_single_inode sync_inode_metadata __generic_file_fsync ext4_sync_file",
        Cause::Metadata,
        "ext4 without a journal writes the inode in place",
    ),
    (
        "io_schedule bit_wait_io __wait_on_bit out_of_line_wait_on_bit ext4_wait_block_bitmap __wait_on_buffer \
             ext4_mb_init_cache ext4_mb_load_buddy_gfp ext4_mb_regular_allocator ext4_mb_new_blocks ext4_ext_map_blocks \
             ext4_map_blocks ext4_do_writepages ext4_writepages do_writepages file_write_and_wait_range",
        Cause::Metadata,
        "within writeback, a bitmap is read",
    ),
    (
        "schedule_timeout __down_common down xfs_buf_lock xfs_buf_find_lock xfs_buf_get_map xfs_buf_read_map \
             xfs_trans_read_buf_map xfs_read_agf xfs_alloc_read_agf xfs_alloc_fix_freelist xfs_file_fallocate",
        Cause::Metadata,
        "a buffer is locked while its I/O is in flight",
    ),
    (
        "io_schedule bit_wait_io __wait_on_bit out_of_line_wait_on_bit read_extent_buffer_pages \
             btrfs_read_extent_buffer read_tree_block read_block_for_search btrfs_search_slot btrfs_lookup_inode",
        Cause::Metadata,
        "btrfs reads a node of a tree",
    ),
];

const BLOCK_LAYER: &[Case] = &[
    (
        "io_schedule blk_mq_get_tag __blk_mq_alloc_requests blk_mq_submit_bio __submit_bio submit_bio_noacct_nocheck \
             ext4_io_submit ext4_do_writepages ext4_writepages do_writepages file_write_and_wait_range ext4_sync_file",
        Cause::RequestQueue,
        "every tag of the device is in use",
    ),
    (
        "io_schedule rq_qos_wait wbt_wait __rq_qos_throttle blk_mq_submit_bio __submit_bio submit_bio_noacct \
             ext4_bio_write_page mpage_submit_page ext4_writepages do_writepages",
        Cause::RequestQueue,
        "6.1: writeback is throttled by wbt",
    ),
    (
        "io_schedule blk_mq_get_tag blk_mq_submit_bio submit_bio_wait blkdev_issue_flush jbd2_journal_commit_transaction",
        Cause::RequestQueue,
        "a flush without a request was not sent",
    ),
    (
        "schedule __bio_queue_enter blk_mq_submit_bio submit_bio_noacct_nocheck xlog_state_release_iclog \
             xfs_log_force_seq xfs_file_fsync",
        Cause::RequestQueue,
        "the queue is frozen, for a change of its scheduler for example",
    ),
    (
        "schedule mempool_alloc bio_alloc_bioset iomap_writepage_map iomap_writepages xfs_vm_writepages do_writepages",
        Cause::RequestQueue,
        "no bio is free",
    ),
    (
        "io_schedule ioc_rqos_throttle __rq_qos_throttle blk_mq_submit_bio submit_bio_noacct ext4_io_submit",
        Cause::RequestQueue,
        "iocost",
    ),
];

const DIRTY: &[Case] = &[
    (
        "io_schedule_timeout balance_dirty_pages balance_dirty_pages_ratelimited_flags generic_perform_write \
             ext4_buffered_write_iter vfs_write ksys_pwrite64",
        Cause::DirtyThrottling,
        "6.x",
    ),
    (
        "io_schedule_timeout balance_dirty_pages balance_dirty_pages_ratelimited generic_perform_write \
             ext4_buffered_write_iter new_sync_write vfs_write",
        Cause::DirtyThrottling,
        "5.10",
    ),
];

const LOCKS: &[Case] = &[
    (
        "schedule rwsem_down_write_slowpath down_write ext4_buffered_write_iter vfs_write ksys_write",
        Cause::Lock,
        "the inode lock, held by fallocate or another write",
    ),
    (
        "schedule rwsem_down_read_slowpath down_read ext4_map_blocks ext4_writepages do_writepages \
             file_write_and_wait_range ext4_sync_file",
        Cause::Lock,
        "the lock of the block map, within writeback",
    ),
    (
        "io_schedule folio_wait_bit_common __folio_lock mpage_prepare_extent_to_map ext4_do_writepages do_writepages",
        Cause::Lock,
        "a page that another task has locked",
    ),
    (
        "schedule_preempt_disabled __mutex_lock __mutex_lock_slowpath mutex_lock bdev_writeback do_fsync",
        Cause::Lock,
        "a mutex",
    ),
    (
        "schedule percpu_rwsem_wait __percpu_down_read ext4_writepages do_writepages file_write_and_wait_range",
        Cause::Lock,
        "a per-CPU lock of ext4, which is not a freeze",
    ),
];

const FROZEN: &[Case] = &[
    (
        "schedule percpu_rwsem_wait __percpu_down_read vfs_write ksys_write __x64_sys_write",
        Cause::Frozen,
        "6.x: fsfreeze",
    ),
    (
        "schedule percpu_rwsem_wait __percpu_down_read __sb_start_write vfs_write ksys_write",
        Cause::Frozen,
        "5.10",
    ),
    (
        "schedule percpu_rwsem_wait __percpu_down_read xfs_trans_alloc xfs_vn_update_time file_update_time",
        Cause::Frozen,
        "XFS starts a transaction",
    ),
];

const OTHERS: &[Case] = &[
    (
        "schedule request_wait_answer fuse_simple_request fuse_fsync_common fuse_fsync do_fsync",
        Cause::Other,
        "a wait for a server's response",
    ),
    (
        "io_schedule folio_wait_bit_common folio_wait_writeback shrink_folio_list shrink_lruvec shrink_node \
             do_try_to_free_pages try_to_free_mem_cgroup_pages try_charge_memcg __filemap_add_folio generic_perform_write",
        Cause::Other,
        "memory shortage; the pages may belong to any process",
    ),
    (
        "io_schedule folio_wait_bit_common filemap_fault __do_fault handle_mm_fault exc_page_fault \
             fault_in_readable generic_perform_write",
        Cause::Other,
        "the data to write must be read first",
    ),
    ("", Cause::Other, "the thread runs"),
    ("irqentry_exit asm_sysvec_apic_timer_interrupt", Cause::Other, "the thread was preempted"),
];

#[test]
fn stacks_indicate_their_cause() {
    let groups = [CACHE, DATA, JOURNAL, METADATA, BLOCK_LAYER, DIRTY, LOCKS, FROZEN, OTHERS];
    for &(functions, expected, why) in groups.into_iter().flatten() {
        assert_eq!(cause_of(&stack(functions)), expected, "{why}");
    }
    assert_eq!(cause_of(&[]), Cause::Other, "a running thread has no stack in /proc");
}

#[test]
fn stack_text_of_proc_is_parsed() {
    let text = "[<0>] folio_wait_bit_common+0x13c/0x340\n[<0>] xlog_wait_on_iclog.isra.0+0x1/0x2 [xfs]\n\
                [<ffffffffc0000001>] btrfs_sync_log.constprop.0.part.0.cold+0x1/0x2 [btrfs]\n\
                [<0>] do_syscall_64+0x5c/0xa0\n\n";
    let expected = ["folio_wait_bit_common", "xlog_wait_on_iclog", "btrfs_sync_log", "do_syscall_64"];
    assert_eq!(frames(text), expected);
    assert_eq!(frames(""), Vec::<&str>::new(), "a running thread");
    assert_eq!(frames("[<0>] 0xffffffffffffffff\n"), Vec::<&str>::new(), "the end mark of old kernels");
}

#[test]
fn a_report_shows_the_specific_frames() {
    let cases = [
        (
            "schedule io_schedule bit_wait_io __wait_on_bit folio_wait_bit_common filemap_fault __do_fault a b c",
            "filemap_fault < __do_fault < a < b",
            "four, without those of the scheduler",
        ),
        ("schedule __x64_sys_fdatasync", "", "no specific frame"),
        ("schedule_timeout one", "one", "fewer than four"),
    ];
    for (functions, expected, why) in cases {
        assert_eq!(top_frames(&stack(functions)), expected, "{why}");
    }
}

#[test]
fn labels_are_in_the_order_of_their_numbers() {
    for (number, cause) in Cause::ALL.into_iter().enumerate() {
        assert_eq!(cause as usize, number, "{}: the index of arrays by cause", cause.as_str());
    }
}
