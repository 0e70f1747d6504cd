//! Walks from a file descriptor to the names and inodes of its file, in the kernel's own structures.
//!
//! `task_struct.files → files_struct.fdt → fdtable.fd[fd] → file.f_path.dentry` stays valid for the duration
//! of the call, so no open, rename or rotation can interfere; and files that were opened before the probe
//! attached are found, too.

use probe_ebpf::{
    file_name::{self, NameWords},
    miss::Miss,
    offsets::ABSENT,
};

use super::kernel_memory::{load, read, task, typed_task};
use crate::{maps::TYPED_TASK, offset};

/// A file by the kernel's `dentry`, with the fields read.
#[derive(Clone, Copy)]
pub struct Dentry {
    address: *const u8,
    /// The hash of the name, with its length in the upper half.
    hash_len: u64,
    name: *const u8,
    inode: Inode,
}

/// A file by the kernel's `inode`.
#[derive(Clone, Copy)]
pub struct Inode(*const u8);

/// Identifies a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub inode: u64,
    pub dev: u32,
}

/// Returns the file of a descriptor of the running thread, or `None` if the descriptor is not open.
#[inline(always)]
pub fn open_file(descriptor: u64) -> Result<Option<Dentry>, Miss> {
    let Some(file) = file(descriptor)? else { return Ok(None) };
    Dentry::at(read(file, offset!(file_dentry))?).map(Some)
}

/// Returns the current file offset (`f_pos`) of a descriptor.
#[inline(always)]
pub fn file_offset(descriptor: u32) -> Option<u64> {
    if offset!(file_pos) == ABSENT as usize {
        return None;
    }
    file(descriptor.into()).ok()?.and_then(|file| read(file, offset!(file_pos)).ok())
}

/// Returns the `struct file` of a descriptor of the running thread, or `None` if the descriptor is not open.
#[inline(always)]
fn file(descriptor: u64) -> Result<Option<*const u8>, Miss> {
    let (length, array) = descriptors()?;
    // A descriptor is an `unsigned int`; the upper half of the register is undefined.
    let descriptor = descriptor & 0xffff_ffff;
    if descriptor >= u64::from(length) {
        return Ok(None);
    }
    let file: *const u8 = read(array, descriptor as usize * size_of::<usize>())?;
    Ok(if file.is_null() { None } else { Some(file) })
}

/// Returns the length of the running thread's table of descriptors, and the address of its array of files.
#[inline(always)]
fn descriptors() -> Result<(u32, *const u8), Miss> {
    if TYPED_TASK.load() != 0 {
        let files: *const u8 = load(typed_task(), offset!(task_files));
        let table: *const u8 = load(files, offset!(files_fdt));
        return Ok((load(table, offset!(fdt_max_fds)), load(table, offset!(fdt_fd))));
    }
    let files: *const u8 = read(task(), offset!(task_files))?;
    let table: *const u8 = read(files, offset!(files_fdt))?;
    Ok((read(table, offset!(fdt_max_fds))?, read(table, offset!(fdt_fd))?))
}

/// [`parse_file_name`]: etcd gives no traced file such a name.
const NO_ROLE: u64 = u64::MAX;
/// [`parse_file_name`]: the name could not be read.
const NO_NAME: u64 = u64::MAX - 1;

/// Returns the parsed name at an address in the kernel's memory, packed, or [`NO_ROLE`], or [`NO_NAME`].
///
/// A BPF global function (Linux 5.6), so the verifier checks it once; inlined, the verifier would follow
/// every name to the end of the program.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn parse_file_name(name: u64, length: u64) -> u64 {
    let length = length as u32;
    if !file_name::is_plausible_length(length) {
        return NO_ROLE;
    }
    // The kernel allocates names in steps of 32 bytes or more and ends them with zero; the bytes after that
    // are ignored.
    match read::<NameWords>(name as *const u8, 0) {
        Ok(name) => file_name::parse_words(&name, length).map_or(NO_ROLE, |name| name.pack().into()),
        Err(_) => NO_NAME,
    }
}

impl Dentry {
    /// Reads the fields of a `dentry`.
    #[inline(always)]
    fn at(address: *const u8) -> Result<Self, Miss> {
        let (hash_len, name, inode) = (offset!(dentry_hash_len), offset!(dentry_name), offset!(dentry_inode));
        // From 5.10 to 7.2 the three fields are adjacent, and one call of the helper is cheaper than three.
        if name == hash_len + 8 && inode == hash_len + 16 {
            let [hash_len, name, inode] = read::<[u64; 3]>(address, hash_len)?;
            return Ok(Self { address, hash_len, name: name as *const u8, inode: Inode(inode as *const u8) });
        }
        Ok(Self {
            address,
            hash_len: read(address, hash_len)?,
            name: read(address, name)?,
            inode: Inode(read(address, inode)?),
        })
    }

    #[inline(always)]
    pub fn address(self) -> u64 {
        self.address as u64
    }

    #[inline(always)]
    pub fn hash_len(self) -> u64 {
        self.hash_len
    }

    #[inline(always)]
    pub fn name_length(self) -> u32 {
        (self.hash_len >> 32) as u32
    }

    /// Returns the parsed name of the file, packed, if it implies a role.
    #[inline(always)]
    pub fn parse_name(self) -> Result<Option<u32>, Miss> {
        match parse_file_name(self.name as u64, self.name_length().into()) {
            NO_ROLE => Ok(None),
            NO_NAME => Err(Miss::UnreadableFile),
            packed => Ok(Some(packed as u32)),
        }
    }

    /// Returns whether this is a directory with the name `snap`, where etcd keeps its database and snapshots.
    #[inline(always)]
    pub fn is_snap(self) -> Result<bool, Miss> {
        Ok(self.name_length() == 4 && read::<u32>(self.name, 0)? == u32::from_le_bytes(*b"snap"))
    }

    #[inline(always)]
    pub fn parent(self) -> Result<Self, Miss> {
        Self::at(read(self.address, offset!(dentry_parent))?)
    }

    #[inline(always)]
    pub fn inode(self) -> Inode {
        self.inode
    }

    #[inline(always)]
    pub fn identity(self) -> Result<Identity, Miss> {
        self.inode.identity()
    }
}

impl Inode {
    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub fn identity(self) -> Result<Identity, Miss> {
        let super_block: *const u8 = read(self.0, offset!(inode_sb))?;
        Ok(Identity { inode: read(self.0, offset!(inode_number))?, dev: read(super_block, offset!(sb_dev))? })
    }
}
