//! The running kernel's description of its own types, opened once.
//!
//! Both libraries that read it look at every type for every name, or keep all of them: 2 ms a name, or 25 MiB. So the names are looked
//! up here, all in one pass, and the libraries are asked for types by number.

use std::{collections::HashMap, fs::File, io, os::fd::AsRawFd};

use btf_rs::{Backend, Type};
use memmap2::Mmap;
use rustix::fs::{MemfdFlags, memfd_create};

/// There since Linux 5.4 with `CONFIG_DEBUG_INFO_BTF`.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// `struct btf_header` and `struct btf_type` of include/uapi/linux/btf.h.
const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;

/// `BTF_KIND_FWD` and `BTF_KIND_FUNC`, in `btf_type.info`.
const FORWARD: u32 = 7 << 24;
const FUNCTION: u32 = 12 << 24;

/// The kernel's types, and the numbers of those that were asked for.
pub struct Types {
    btf: btf_rs::Btf,
    numbers: HashMap<String, Vec<u32>>,
    count: u32,
}

impl Types {
    /// Opens the kernel's types and looks these names up.
    ///
    /// sysfs lets the file be mapped since Linux 6.16; before, a copy in memory is, some 6 MiB for as long as it is looked into.
    ///
    /// # Errors
    /// If there are none, or they cannot be read.
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
        let Found { numbers, count } = look_up(&map(&file)?, names).unwrap_or_default();
        let btf = btf_rs::Btf::from_file_with_backend(path, Backend::Mmap)?;
        Ok(Self { btf, numbers, count })
    }

    /// Returns the types of a name.
    pub fn named(&self, name: &str) -> Vec<Type> {
        match self.numbers.get(name) {
            Some(numbers) => {
                numbers.iter().filter_map(|number| self.btf.resolve_type_by_id(*number).ok()).collect()
            }
            // One that was not asked for, or types that are laid out otherwise than known here.
            None => self.btf.resolve_types_by_name(name).unwrap_or_default(),
        }
    }

    /// Returns the library's view.
    pub fn btf(&self) -> &btf_rs::Btf {
        &self.btf
    }

    /// Returns the functions among those that were asked for.
    pub fn functions(&self) -> Functions {
        let is_function = |number: &&u32| matches!(self.btf.resolve_type_by_id(**number), Ok(Type::Func(_)));
        let named = self
            .numbers
            .iter()
            .filter_map(|(name, numbers)| Some((name.clone(), *numbers.iter().find(is_function)?)));
        Functions { numbers: named.collect(), types: self.count }
    }
}

/// Functions of the kernel, by their numbers among its types.
#[derive(Debug)]
pub struct Functions {
    numbers: Vec<(String, u32)>,
    types: u32,
}

impl Functions {
    /// Returns types of which only these functions are told, under their numbers: what aya needs to load a program for a function.
    /// All others are there as declarations without a name, in a third of the memory.
    pub fn as_types(&self) -> Vec<u8> {
        let bytes_of = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let mut strings = vec![0];
        let mut entries = HashMap::new();
        for (name, number) in &self.numbers {
            entries.insert(*number, [bytes_of(strings.len()), FUNCTION, 0]);
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        // Number 0 is `void`, which stands nowhere.
        let types = (1..=self.types).map(|number| *entries.get(&number).unwrap_or(&[0, FORWARD, 0]));
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
    // SAFETY: nobody changes the kernel's types, nor a copy that only we have.
    unsafe { Mmap::map(file) }
}

/// What one pass found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    numbers: HashMap<String, Vec<u32>>,
    /// Types there are.
    count: u32,
}

/// Finds the numbers of all types of these names; nothing if the layout is not the one that is known.
fn look_up(bytes: &[u8], names: &[String]) -> Option<Found> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if bytes.get(..2)? != MAGIC.to_ne_bytes() {
        return None;
    }
    let (header, type_offset, type_bytes) = (word(4)? as usize, word(8)? as usize, word(12)? as usize);
    let (string_offset, string_bytes) = (word(16)? as usize, word(20)? as usize);
    let strings = bytes.get(header + string_offset..)?.get(..string_bytes)?;
    // Every name stands there once, between two zeroes.
    let mut wanted: HashMap<u32, &String> = HashMap::new();
    for name in names {
        let place = memchr::memmem::find(strings, format!("\0{name}\0").as_bytes());
        if let Some(before) = place {
            wanted.insert(u32::try_from(before + 1).ok()?, name);
        }
    }
    let mut found = Found::default();
    let (mut at, end) = (header + type_offset, header + type_offset + type_bytes);
    while at < end {
        found.count += 1;
        let (name, info) = (word(at)?, word(at + 4)?);
        if let Some(name) = wanted.get(&name).filter(|_| name != 0) {
            found.numbers.entry((*name).clone()).or_default().push(found.count);
        }
        at += TYPE_BYTES + bytes_behind(info)?;
    }
    (at == end).then_some(found)
}

/// Returns how many bytes belong to a type behind its `struct btf_type`; `None` for a kind that is not known.
fn bytes_behind(info: u32) -> Option<usize> {
    let members = (info & 0xffff) as usize;
    Some(match info >> 24 & 0x1f {
        // Pointers, declarations, names for and qualifiers of other types, functions, floats.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, enumerations of 64 bits.
        4 | 5 | 15 | 19 => 12 * members,
        // Enumerations, prototypes of functions.
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
    fn one_pass_finds_what_the_library_finds() {
        let asked = names(&["task_struct", "dentry", "vfs_write", "no_such_type"]);
        let types = Types::open(&asked).expect("the tests need a kernel with BTF");
        assert!(types.count > 10_000, "{} types", types.count);
        for name in &asked {
            let expected = types.btf.resolve_ids_by_name(name).unwrap();
            assert_eq!(types.numbers.get(name).cloned().unwrap_or_default(), expected, "{name}");
        }
    }

    #[test]
    fn functions_are_told_under_their_numbers() {
        let types = Types::open(&names(&["vfs_write", "task_struct"])).expect("the tests need BTF");
        let reduced = types.functions().as_types();
        let found = look_up(&reduced, &names(&["vfs_write", "task_struct"])).unwrap();
        assert_eq!(found.count, types.count);
        assert_eq!(found.numbers["vfs_write"], types.numbers["vfs_write"]);
        assert_eq!(found.numbers.get("task_struct"), None, "no function");
        aya::Btf::parse(&reduced, aya::Endianness::default()).expect("aya takes it for types");
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let bytes = std::fs::read(VMLINUX).expect("the tests need a kernel with BTF");
        let asked = names(&["task_struct"]);
        assert!(look_up(&bytes, &asked).is_some());
        assert_eq!(look_up(&bytes[..bytes.len() / 2], &asked), None, "cut off");
        assert_eq!(look_up(&bytes[1..], &asked), None, "no magic number");
        let mut unknown = bytes;
        unknown[HEADER_BYTES + 7] = 31;
        assert_eq!(look_up(&unknown, &asked), None, "a kind that there is not");
    }
}
