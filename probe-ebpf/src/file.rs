//! Tells what a file descriptor is to etcd, from the kernel's own structures.
//!
//! `task_struct.files → files_struct.fdt → fdtable.fd[fd] → file.f_path.dentry` holds for the length of the call, so
//! no open, rename or rotation can come between; and it needs no knowledge of what was opened before the probe began.

use probe_ebpf::{
    layout::ABSENT,
    miss::Miss,
    name::{self, Name, Named},
};

use crate::{
    maps::TYPED,
    offset,
    target::{load, read, task, typed_task},
};

/// A file by the kernel's `dentry`.
#[derive(Clone, Copy)]
pub struct Dentry(*const u8);

/// A file by the kernel's `inode`.
#[derive(Clone, Copy)]
pub struct Inode(*const u8);

/// What tells one file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub inode: u64,
    pub dev: u32,
}

/// Returns the file of a descriptor of the running thread, or none if there is none.
#[inline(always)]
pub fn open_file(descriptor: u64) -> Result<Option<Dentry>, Miss> {
    let Some(file) = file(descriptor)? else { return Ok(None) };
    read(file, offset!(file_dentry)).map(|dentry| Some(Dentry(dentry)))
}

/// Returns where the next byte of a descriptor goes, as of now.
#[inline(always)]
pub fn position(descriptor: u32) -> Option<u64> {
    if offset!(file_pos) == ABSENT as usize {
        return None;
    }
    file(descriptor.into()).ok()?.and_then(|file| read(file, offset!(file_pos)).ok())
}

/// Returns the `struct file` of a descriptor of the running thread, or none if there is none.
#[inline(always)]
fn file(descriptor: u64) -> Result<Option<*const u8>, Miss> {
    let (length, array) = descriptors()?;
    // A descriptor is an `unsigned int`; the upper half of the register means nothing.
    let descriptor = descriptor & 0xffff_ffff;
    if descriptor >= u64::from(length) {
        return Ok(None);
    }
    let file: *const u8 = read(array, descriptor as usize * size_of::<usize>())?;
    Ok(if file.is_null() { None } else { Some(file) })
}

/// Returns how many descriptors the running thread's table has room for, and where their files are.
#[inline(always)]
fn descriptors() -> Result<(u32, *const u8), Miss> {
    if TYPED.load() != 0 {
        let files: *const u8 = load(typed_task(), offset!(task_files));
        let table: *const u8 = load(files, offset!(files_fdt));
        return Ok((load(table, offset!(fdt_max_fds)), load(table, offset!(fdt_fd))));
    }
    let files: *const u8 = read(task(), offset!(task_files))?;
    let table: *const u8 = read(files, offset!(files_fdt))?;
    Ok((read(table, offset!(fdt_max_fds))?, read(table, offset!(fdt_fd))?))
}

impl Dentry {
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Returns the hash of the name, and its length in the upper half.
    #[inline(always)]
    pub fn hash_len(self) -> Result<u64, Miss> {
        read(self.0, offset!(dentry_hash_len))
    }

    /// Returns the role that the file's name gives it, if any.
    #[inline(always)]
    pub fn named(self, hash_len: u64) -> Result<Option<Named>, Miss> {
        let length = (hash_len >> 32) as u32;
        if !name::may_matter(length) {
            return Ok(None);
        }
        let name: *const u8 = read(self.0, offset!(dentry_name))?;
        // The kernel allocates names in steps of 32 bytes or more and ends them with zero; what lies behind is not looked at.
        Ok(name::role(&read::<Name>(name, 0)?, length))
    }

    /// Returns whether this is a directory called `snap`, where etcd keeps its database and snapshots.
    #[inline(always)]
    pub fn is_snap(self) -> Result<bool, Miss> {
        let name: *const u8 = read(self.0, offset!(dentry_name))?;
        Ok(self.hash_len()? >> 32 == 4 && read::<u32>(name, 0)? == u32::from_le_bytes(*b"snap"))
    }

    #[inline(always)]
    pub fn parent(self) -> Result<Self, Miss> {
        read(self.0, offset!(dentry_parent)).map(Self)
    }

    #[inline(always)]
    pub fn inode(self) -> Result<Inode, Miss> {
        read(self.0, offset!(dentry_inode)).map(Inode)
    }

    #[inline(always)]
    pub fn identity(self) -> Result<Identity, Miss> {
        self.inode()?.identity()
    }
}

impl Inode {
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub fn number(self) -> Result<u64, Miss> {
        read(self.0, offset!(inode_number))
    }

    #[inline(always)]
    pub fn identity(self) -> Result<Identity, Miss> {
        let super_block: *const u8 = read(self.0, offset!(inode_sb))?;
        Ok(Identity { inode: self.number()?, dev: read(super_block, offset!(sb_dev))? })
    }
}
