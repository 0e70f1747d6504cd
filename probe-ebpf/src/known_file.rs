//! What a thread's files are to etcd: found out once by walking to their names, then remembered.

use aya_log_ebpf::info;
use probe_ebpf::{
    miss::Miss,
    name::{Named, may_matter},
    series::{Op, Role},
    state::{FOREIGN, KNOWN_FILES, KnownFile, Target, Thread, UNNAMED, UNREADABLE},
};

use crate::{
    file::{Dentry, Identity},
    target::{is_known_process, known_thread, target_state, thread},
};

/// Returns where a thread remembers the file of a descriptor.
#[inline(always)]
pub fn place(descriptor: u64) -> usize {
    descriptor as usize % KNOWN_FILES
}

/// Returns the running thread if the file may matter, which it then remembers at [`place`]. It may be `known` already.
#[inline(always)]
pub fn know(
    op: Op,
    descriptor: u64,
    dentry: Dentry,
    known: Option<&'static mut Thread>,
) -> Result<Option<&'static mut Thread>, Miss> {
    // Most writes go to sockets, which have no name: no more is done for them.
    if op.returns_bytes() && !may_matter(dentry.name_length()) {
        return Ok(None);
    }
    let known = match known {
        None => known_thread()?,
        known => known,
    };
    if let Some(thread) = &known
        && remembers(&thread.files[place(descriptor)], dentry)
    {
        return Ok(known);
    }
    learn(known, op, descriptor, dentry)
}

/// Returns whether this is the file that is remembered.
#[inline(always)]
fn remembers(known: &KnownFile, dentry: Dentry) -> bool {
    known.dentry == dentry.address()
        && known.hash_len == dentry.hash_len()
        && known.inode_address == dentry.inode().address()
}

/// Finds out what a file is; returns the running thread if it matters.
#[inline(always)]
fn learn(
    known: Option<&'static mut Thread>,
    op: Op,
    descriptor: u64,
    dentry: Dentry,
) -> Result<Option<&'static mut Thread>, Miss> {
    let named = match dentry.named()? {
        // `db`, `tmp…` and their like mean something only where etcd keeps them.
        Some(named) if !matches!(role(named), Role::Wal) && !dentry.parent()?.is_snap()? => None,
        other => other,
    };
    if named.is_none() && op.returns_bytes() {
        return Ok(None);
    }
    let thread = match known {
        Some(thread) => thread,
        // A thread that never touched a file of etcd's may still sync the WAL's directory, so its process is what counts.
        None if named.is_some() || is_known_process()? => thread()?,
        None => return Ok(None),
    };
    let file = &mut thread.files[place(descriptor)];
    *file = KnownFile {
        dentry: dentry.address(),
        hash_len: dentry.hash_len(),
        inode_address: dentry.inode().address(),
        inode: 0,
        dev: 0,
        named: named.unwrap_or(UNNAMED),
    };
    match named.map(role) {
        Some(Role::Wal) => match is_in_wal(dentry, target_state(thread.target)?) {
            Ok(true) => {}
            Ok(false) => file.named = FOREIGN,
            Err(_) => forget(file),
        },
        Some(Role::Backend) => match dentry.identity() {
            Ok(Identity { inode, dev }) => {
                file.inode = inode;
                file.dev = dev;
            }
            Err(_) => forget(file),
        },
        Some(Role::WalDir | Role::Snapshot | Role::Defrag) | None => {}
    }
    Ok(Some(thread))
}

#[inline(always)]
fn role(packed: u32) -> Role {
    Named::unpacked(packed).role
}

/// Counts an operation as nothing, and looks again the next time.
#[inline(always)]
fn forget(file: &mut KnownFile) {
    file.named = UNREADABLE;
    file.dentry = 0;
}

/// Returns whether a segment is in the WAL: the first one tells where that is.
#[inline(always)]
fn is_in_wal(dentry: Dentry, target: *mut Target) -> Result<bool, Miss> {
    let directory = dentry.parent()?;
    let Identity { inode, dev } = directory.identity()?;
    // SAFETY: the element lives as long as its map. Two threads may find the directory at once; they find the same.
    let target = unsafe { &mut *target };
    if target.wal_dir_inode == 0 {
        let above = directory.parent()?.identity()?;
        target.wal_parent_inode = above.inode;
        target.wal_dev = dev;
        target.wal_dir_inode = inode;
        info!((), "process {}: WAL directory is inode {} on device {}", target.tgid, inode, dev);
    }
    Ok(target.wal_dir_inode == inode && target.wal_dev == dev)
}
