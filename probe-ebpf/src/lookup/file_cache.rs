//! The role of a thread's files: resolved once by walking to their names, then cached.

use aya_log_ebpf::info;
use probe_ebpf::{
    file_name::{ParsedName, is_plausible_length},
    miss::Miss,
    series::{Op, Role},
    state::{CACHED_FILES, CachedFile, FOREIGN, Target, Thread, UNNAMED, UNREADABLE},
};

use super::{
    process::{find_or_add_thread, find_thread, has_target_state, target_state},
    vfs::{Dentry, Identity},
};

/// Returns the index in the thread's cache for a descriptor.
#[inline(always)]
pub fn cache_index(descriptor: u64) -> usize {
    descriptor as usize % CACHED_FILES
}

/// Returns the running thread if the file may be traced; its cache then holds the file at [`cache_index`].
/// The caller passes the thread if it has found it already.
#[inline(always)]
pub fn lookup(
    op: Op,
    descriptor: u64,
    dentry: Dentry,
    known: Option<&'static mut Thread>,
) -> Result<Option<&'static mut Thread>, Miss> {
    // Most writes go to sockets, whose dentries have no name: they end here.
    if op.returns_bytes() && !is_plausible_length(dentry.name_length()) {
        return Ok(None);
    }
    let known = match known {
        None => find_thread()?,
        known => known,
    };
    if let Some(thread) = &known
        && is_hit(&thread.files[cache_index(descriptor)], dentry)
    {
        return Ok(known);
    }
    resolve(known, op, descriptor, dentry)
}

/// Returns whether this is the cached file.
#[inline(always)]
fn is_hit(cached: &CachedFile, dentry: Dentry) -> bool {
    cached.dentry == dentry.address()
        && cached.hash_len == dentry.hash_len()
        && cached.inode_address == dentry.inode().address()
}

/// Resolves the role of a file; returns the running thread if the file may be traced.
#[inline(always)]
fn resolve(
    known: Option<&'static mut Thread>,
    op: Op,
    descriptor: u64,
    dentry: Dentry,
) -> Result<Option<&'static mut Thread>, Miss> {
    let name = match dentry.parse_name()? {
        // `db`, `tmp…` and similar names imply a role only in the directory where etcd keeps these files.
        Some(name) if !matches!(role(name), Role::Wal) && !dentry.parent()?.is_snap()? => None,
        other => other,
    };
    if name.is_none() && op.returns_bytes() {
        return Ok(None);
    }
    let thread = match known {
        Some(thread) => thread,
        // A thread that never used a file of etcd's may still sync the WAL's directory, so its process
        // decides.
        None if name.is_some() || has_target_state()? => find_or_add_thread()?,
        None => return Ok(None),
    };
    let file = &mut thread.files[cache_index(descriptor)];
    *file = CachedFile {
        dentry: dentry.address(),
        hash_len: dentry.hash_len(),
        inode_address: dentry.inode().address(),
        inode: 0,
        dev: 0,
        parsed_name: name.unwrap_or(UNNAMED),
    };
    match name.map(role) {
        Some(Role::Wal) => match is_in_wal(dentry, target_state(thread.target)?) {
            Ok(true) => {}
            Ok(false) => file.parsed_name = FOREIGN,
            Err(_) => invalidate(file),
        },
        Some(Role::Backend) => match dentry.identity() {
            Ok(Identity { inode, dev }) => {
                file.inode = inode;
                file.dev = dev;
            }
            Err(_) => invalidate(file),
        },
        Some(Role::WalDir | Role::Snapshot | Role::Defrag) | None => {}
    }
    Ok(Some(thread))
}

#[inline(always)]
fn role(packed: u32) -> Role {
    ParsedName::unpack(packed).role
}

/// Marks the file as unreadable, so that this operation is not counted and the next one resolves the file
/// again.
#[inline(always)]
fn invalidate(file: &mut CachedFile) {
    file.parsed_name = UNREADABLE;
    file.dentry = 0;
}

/// Returns whether a segment is in the WAL; the first segment determines the directory.
#[inline(always)]
fn is_in_wal(dentry: Dentry, target: *mut Target) -> Result<bool, Miss> {
    let directory = dentry.parent()?;
    let Identity { inode, dev } = directory.identity()?;
    // SAFETY: the element exists as long as its map. Two threads may store the directory at once; both store
    // the same.
    let target = unsafe { &mut *target };
    if target.wal_dir_inode == 0 {
        let parent = directory.parent()?.identity()?;
        target.wal_parent_inode = parent.inode;
        target.wal_dev = dev;
        target.wal_dir_inode = inode;
        info!((), "process {}: WAL directory is inode {} on device {}", target.tgid, inode, dev);
    }
    Ok(target.wal_dir_inode == inode && target.wal_dev == dev)
}
