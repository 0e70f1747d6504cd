//! Looks up where the running kernel keeps what the programs read.

mod optional;

use std::{env::consts::ARCH, fs::File, io, os::fd::AsRawFd};

use btf_rs::{Backend, Btf, Type};
use probe_ebpf::layout::Offsets;
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Hook, KernelError};

/// The running kernel's description of its own types; there since Linux 5.4 with `CONFIG_DEBUG_INFO_BTF`.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The longest common fields before a tracepoint's own that the programs expect, in bytes.
const LONGEST_COMMON_FIELDS: usize = 12;

/// Structures whose members are followed inwards: unions and structures without a name, as deep as the kernel nests them.
const DEPTH: usize = 4;

/// Returns the offsets in the running kernel that the programs of one kind of hook need.
///
/// # Errors
/// If the kernel has no BTF, or its structures are not those that the programs know.
pub fn running_kernel(hook: Hook) -> Result<Offsets, KernelError> {
    let btf = types().map_err(|error| KernelError::NoBtf(error.to_string()))?;
    if hook == Hook::Tracepoint {
        check_tracepoints(&btf)?;
    }
    let of = |path: &[(&'static str, &'static str)]| offset(&btf, path);
    let mut offsets = Offsets {
        task_files: of(&[("task_struct", "files")])?,
        task_group_leader: of(&[("task_struct", "group_leader")])?,
        task_start: of(&[("task_struct", "start_boottime")])?,
        files_fdt: of(&[("files_struct", "fdt")])?,
        fdt_max_fds: of(&[("fdtable", "max_fds")])?,
        fdt_fd: of(&[("fdtable", "fd")])?,
        file_dentry: of(&[("file", "f_path"), ("path", "dentry")])?,
        dentry_hash_len: of(&[("dentry", "d_name"), ("qstr", "hash_len")])?,
        dentry_name: of(&[("dentry", "d_name"), ("qstr", "name")])?,
        dentry_parent: of(&[("dentry", "d_parent")])?,
        dentry_inode: of(&[("dentry", "d_inode")])?,
        inode_number: of(&[("inode", "i_ino")])?,
        inode_sb: of(&[("inode", "i_sb")])?,
        sb_dev: of(&[("super_block", "s_dev")])?,
        regs_arguments: arguments(&btf)?,
        ..Offsets::default()
    };
    optional::add(&btf, &mut offsets);
    Ok(offsets)
}

/// Opens the kernel's types. Mapped, they are not parsed as a whole, which takes 0.3 s and 20 MiB.
///
/// sysfs lets the file be mapped since Linux 6.16; before, a copy in memory is, some 6 MiB for as long as it is looked into.
fn types() -> anyhow::Result<Btf> {
    if let Ok(btf) = Btf::from_file_with_backend(VMLINUX, Backend::Mmap) {
        return Ok(btf);
    }
    let mut copy = File::from(memfd_create("btf", MemfdFlags::CLOEXEC)?);
    io::copy(&mut File::open(VMLINUX)?, &mut copy)?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    Ok(Btf::from_file_with_backend(path, Backend::Mmap)?)
}

/// Returns where `pt_regs` keeps the first four arguments of a system call on this machine.
fn arguments(btf: &Btf) -> Result<[u32; 4], KernelError> {
    let of = |register| offset(btf, &[("pt_regs", register)]);
    if ARCH == "aarch64" {
        // `syscall_get_arguments`, arch/arm64/include/asm/syscall.h; the first one survives in `regs[0]` until the exit.
        let first = of("regs")?;
        return Ok([first, first + 8, first + 16, first + 24]);
    }
    // `SC_X86_64_REGS_TO_ARGS`, arch/x86/include/asm/syscall_wrapper.h
    Ok([of("di")?, of("si")?, of("dx")?, of("r10")?])
}

/// Refuses a kernel whose tracepoints begin with longer common fields, as some real-time kernels of vendors may.
fn check_tracepoints(btf: &Btf) -> Result<(), KernelError> {
    let entry = structure(btf, "trace_entry")?;
    if entry.size() > LONGEST_COMMON_FIELDS {
        return Err(KernelError::NoField("trace_entry", "members of 12 bytes or less"));
    }
    Ok(())
}

/// Returns the offset in bytes of a member of a member …
fn offset(btf: &Btf, path: &[(&'static str, &'static str)]) -> Result<u32, KernelError> {
    let mut total = 0;
    for (name, member) in path {
        let found = member_offset(btf, &structure(btf, name)?, member, DEPTH);
        total += found.ok_or(KernelError::NoField(name, member))?;
    }
    Ok(total)
}

fn structure(btf: &Btf, name: &'static str) -> Result<btf_rs::Struct, KernelError> {
    let types = btf.resolve_types_by_name(name).map_err(|_| KernelError::NoField(name, "definition"))?;
    types
        .into_iter()
        .find_map(|found| match found {
            Type::Struct(structure) => Some(structure),
            _ => None,
        })
        .ok_or(KernelError::NoField(name, "definition"))
}

/// Returns the offset in bytes of a member, looking into members without a name, too.
fn member_offset(btf: &Btf, structure: &btf_rs::Struct, wanted: &str, depth: usize) -> Option<u32> {
    structure.members.iter().find_map(|member| {
        let bytes = member.bit_offset() / 8;
        match btf.resolve_name(member).unwrap_or_default().as_str() {
            name if name == wanted => Some(bytes),
            "" if depth > 0 => match btf.resolve_chained_type(member) {
                Ok(Type::Struct(inner) | Type::Union(inner)) => {
                    member_offset(btf, &inner, wanted, depth - 1).map(|inside| bytes + inside)
                }
                _ => None,
            },
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fact of every 64-bit kernel from 5.10 to 7.2: `struct qstr` is the hash, the length, the pointer.
    #[test]
    fn this_kernel_has_every_field() {
        let offsets =
            running_kernel(Hook::Tracepoint).expect("the tests need a kernel with BTF, 5.10 or later");
        assert_eq!(offsets.dentry_name, offsets.dentry_hash_len + 8, "{offsets:?}");
        assert_eq!(offsets.fdt_fd, 8, "`max_fds` and padding come first");
        let [first, second, ..] = offsets.regs_arguments;
        assert_eq!(
            first.abs_diff(second),
            8,
            "registers are words, and the first two are neighbours: {offsets:?}"
        );
        assert!(offsets.task_files > 500, "`files` is deep in `task_struct`: {offsets:?}");
    }

    #[test]
    fn an_unknown_member_is_named() {
        let btf = Btf::from_file(VMLINUX).expect("the tests need a kernel with BTF");
        let error = offset(&btf, &[("dentry", "d_nothing")]).expect_err("there is no such member");
        assert!(error.to_string().contains("`dentry.d_nothing`"), "{error}");
    }
}
