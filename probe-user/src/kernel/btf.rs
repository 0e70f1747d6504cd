//! The running kernel's BTF (description of its own types), opened once.
//!
//! The libraries that read BTF either scan all types for each name (2 ms per name), or keep all of them in
//! memory (25 MiB). So the names are looked up here, in a single pass, and the libraries get type ids.

use std::{collections::HashMap, fs::File, io, os::fd::AsRawFd};

use btf_rs::{Backend, Type};
use memmap2::Mmap;
use rustix::fs::{MemfdFlags, memfd_create};

/// Present since Linux 5.4 with `CONFIG_DEBUG_INFO_BTF`.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// `struct btf_header` and `struct btf_type` of include/uapi/linux/btf.h.
const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;

/// `BTF_KIND_FWD` and `BTF_KIND_FUNC`, in `btf_type.info`.
const FORWARD: u32 = 7 << 24;
const FUNCTION: u32 = 12 << 24;

/// The kernel's types, and the ids of the requested names.
pub struct KernelBtf {
    btf: btf_rs::Btf,
    ids: HashMap<String, Vec<u32>>,
    count: u32,
}

impl KernelBtf {
    /// Opens the kernel's types and looks up these names.
    ///
    /// sysfs allows the file to be mapped since Linux 6.16. On older kernels a copy in memory is mapped,
    /// about 6 MiB while it is open.
    ///
    /// # Errors
    /// If the kernel has no BTF, or it cannot be read.
    pub fn open(names: &[String]) -> anyhow::Result<Self> {
        let file = File::open(VMLINUX)?;
        let (path, file) = if map(&file).is_ok() {
            (VMLINUX.to_owned(), file)
        } else {
            let mut copy = File::from(memfd_create("btf", MemfdFlags::CLOEXEC)?);
            io::copy(&mut { file }, &mut copy)?;
            (format!("/proc/self/fd/{}", copy.as_raw_fd()), copy)
        };
        // One mapping at a time: both are read from beginning to end, and then count as resident.
        let TypeIds { ids, count } = look_up(&map(&file)?, names).unwrap_or_default();
        let btf = btf_rs::Btf::from_file_with_backend(path, Backend::Mmap)?;
        Ok(Self { btf, ids, count })
    }

    /// Returns the types of a name.
    pub fn named(&self, name: &str) -> Vec<Type> {
        match self.ids.get(name) {
            Some(ids) => ids.iter().filter_map(|id| self.btf.resolve_type_by_id(*id).ok()).collect(),
            // The name was not requested, or the BTF has a layout that this module does not support.
            None => self.btf.resolve_types_by_name(name).unwrap_or_default(),
        }
    }

    /// Returns the BTF as opened by the library.
    pub fn btf(&self) -> &btf_rs::Btf {
        &self.btf
    }

    /// Returns the functions among the requested names.
    pub fn functions(&self) -> KernelFunctions {
        let is_function = |id: &&u32| matches!(self.btf.resolve_type_by_id(**id), Ok(Type::Func(_)));
        let named =
            self.ids.iter().filter_map(|(name, ids)| Some((name.clone(), *ids.iter().find(is_function)?)));
        KernelFunctions { ids: named.collect(), types: self.count }
    }
}

/// Functions of the kernel, by type id.
#[derive(Debug)]
pub struct KernelFunctions {
    ids: Vec<(String, u32)>,
    types: u32,
}

impl KernelFunctions {
    /// Returns BTF that contains only these functions, under their original ids: what aya needs to load a
    /// program for a function. All other types are replaced by declarations without a name, which takes a
    /// third of the memory.
    pub fn to_btf(&self) -> Vec<u8> {
        let bytes_of = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let mut strings = vec![0];
        let mut entries = HashMap::new();
        for (name, id) in &self.ids {
            entries.insert(*id, [bytes_of(strings.len()), FUNCTION, 0]);
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        // Type id 0 is `void`, which has no entry.
        let types = (1..=self.types).map(|id| *entries.get(&id).unwrap_or(&[0, FORWARD, 0]));
        let type_bytes = bytes_of(self.types as usize * TYPE_BYTES);
        let header = [bytes_of(HEADER_BYTES), 0, type_bytes, type_bytes, bytes_of(strings.len())];
        let mut out = Vec::with_capacity(HEADER_BYTES + self.types as usize * TYPE_BYTES + strings.len());
        out.extend_from_slice(&MAGIC.to_ne_bytes());
        out.extend_from_slice(&[1, 0]);
        out.extend(header.into_iter().chain(types.flatten()).flat_map(u32::to_ne_bytes));
        out.extend_from_slice(&strings);
        out
    }
}

fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the kernel's types do not change, and no other process has access to the copy.
    unsafe { Mmap::map(file) }
}

/// The result of one pass.
#[derive(Debug, Default, PartialEq, Eq)]
struct TypeIds {
    ids: HashMap<String, Vec<u32>>,
    /// Number of types in the BTF.
    count: u32,
}

/// Returns the ids of all types of these names; `None` if the BTF has an unknown layout.
fn look_up(bytes: &[u8], names: &[String]) -> Option<TypeIds> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if bytes.get(..2)? != MAGIC.to_ne_bytes() {
        return None;
    }
    let (header, type_offset, type_bytes) = (word(4)? as usize, word(8)? as usize, word(12)? as usize);
    let (string_offset, string_bytes) = (word(16)? as usize, word(20)? as usize);
    let strings = bytes.get(header + string_offset..)?.get(..string_bytes)?;
    // The string section contains every name once, between two zeroes.
    let mut wanted: HashMap<u32, &String> = HashMap::new();
    for name in names {
        let offset = memchr::memmem::find(strings, format!("\0{name}\0").as_bytes());
        if let Some(before) = offset {
            wanted.insert(u32::try_from(before + 1).ok()?, name);
        }
    }
    let mut found = TypeIds::default();
    let (mut at, end) = (header + type_offset, header + type_offset + type_bytes);
    while at < end {
        found.count += 1;
        let (name, info) = (word(at)?, word(at + 4)?);
        if let Some(name) = wanted.get(&name).filter(|_| name != 0) {
            found.ids.entry((*name).clone()).or_default().push(found.count);
        }
        at += TYPE_BYTES + trailing_bytes(info)?;
    }
    (at == end).then_some(found)
}

/// Returns the number of bytes that follow a type's `struct btf_type`; `None` for an unknown kind.
fn trailing_bytes(info: u32) -> Option<usize> {
    let members = (info & 0xffff) as usize;
    Some(match info >> 24 & 0x1f {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, data sections, 64-bit enumerations.
        4 | 5 | 15 | 19 => 12 * members,
        // Enumerations, function prototypes.
        6 | 13 => 8 * members,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().copied().map(str::to_owned).collect()
    }

    #[test]
    fn one_pass_finds_the_ids_that_the_library_finds() {
        let requested = names(&["task_struct", "dentry", "vfs_write", "no_such_type"]);
        let types = KernelBtf::open(&requested).expect("the tests need a kernel with BTF");
        assert!(types.count > 10_000, "{} types", types.count);
        for name in &requested {
            let expected = types.btf.resolve_ids_by_name(name).unwrap();
            assert_eq!(types.ids.get(name).cloned().unwrap_or_default(), expected, "{name}");
        }
    }

    #[test]
    fn functions_keep_their_ids() {
        let types = KernelBtf::open(&names(&["vfs_write", "task_struct"])).expect("the tests need BTF");
        let reduced = types.functions().to_btf();
        let found = look_up(&reduced, &names(&["vfs_write", "task_struct"])).unwrap();
        assert_eq!(found.count, types.count);
        assert_eq!(found.ids["vfs_write"], types.ids["vfs_write"]);
        assert_eq!(found.ids.get("task_struct"), None, "not a function");
        aya::Btf::parse(&reduced, aya::Endianness::default()).expect("aya accepts the reduced BTF");
    }

    #[test]
    fn an_unknown_layout_is_rejected() {
        let bytes = std::fs::read(VMLINUX).expect("the tests need a kernel with BTF");
        let requested = names(&["task_struct"]);
        assert!(look_up(&bytes, &requested).is_some());
        assert_eq!(look_up(&bytes[..bytes.len() / 2], &requested), None, "cut off");
        assert_eq!(look_up(&bytes[1..], &requested), None, "no magic number");
        let mut unknown = bytes;
        unknown[HEADER_BYTES + 7] = 31;
        assert_eq!(look_up(&unknown, &requested), None, "an unknown kind");
    }
}
