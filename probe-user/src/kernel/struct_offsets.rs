//! Looks up the offsets of the kernel structures that the programs read.

mod optional_fields;

use std::env::consts::ARCH;

use btf_rs::Type;
use probe_ebpf::{offsets::Offsets, series::Op};

use super::{
    KernelError,
    btf::{KernelBtf, KernelFunctions},
    hook_kind::{Hook, syscall_function},
    preemption,
};

/// Greatest length, in bytes, that the programs accept for the common fields before a tracepoint's own.
const LONGEST_COMMON_FIELDS: usize = 12;

/// How deep members are searched in nested unions and structures without a name: as deep as the kernel nests
/// them.
const DEPTH: usize = 4;

/// The types looked up here and in [`optional_fields`].
const NAMES: [&str; 30] = [
    "bio",
    "blkcg",
    "blkcg_gq",
    "block_device",
    "btf_trace_block_bio_complete",
    "btf_trace_block_bio_queue",
    "btf_trace_block_rq_issue",
    "bvec_iter",
    "cgroup",
    "cgroup_subsys_id",
    "cgroup_subsys_state",
    "css_set",
    "dentry",
    "fdtable",
    "file",
    "files_struct",
    "gendisk",
    "inode",
    "kernfs_node",
    "path",
    "pt_regs",
    "qstr",
    "req_flag_bits",
    "request",
    "request_queue",
    "sched_entity",
    "sched_info",
    "super_block",
    "task_struct",
    "trace_entry",
];

/// Properties of the running kernel that the programs depend on.
#[derive(Debug)]
pub struct KernelLayout {
    offsets: Offsets,
    tracepoints: Result<(), KernelError>,
    /// Functions that programs can be attached to.
    pub functions: KernelFunctions,
    /// Whether a task may be preempted within a program.
    pub preemptible: bool,
}

impl KernelLayout {
    /// Reads the layout from the kernel's BTF, which is closed again afterwards.
    ///
    /// # Errors
    /// If the kernel has no BTF, or its structures lack a field that the programs need.
    pub fn read() -> Result<Self, KernelError> {
        let functions = Op::ALL.into_iter().map(syscall_function);
        let names: Vec<String> = NAMES.map(str::to_owned).into_iter().chain(functions).collect();
        let types = KernelBtf::open(&names).map_err(|error| KernelError::NoBtf(error.to_string()))?;
        Ok(Self {
            offsets: offsets(&types)?,
            tracepoints: check_tracepoints(&types),
            functions: types.functions(),
            preemptible: preemption::is_on(),
        })
    }

    /// Returns the offsets that the programs of one kind of hook need.
    ///
    /// # Errors
    /// If this kind of hook passes its arguments in a layout that the programs do not support.
    pub fn offsets(&self, hook: Hook) -> Result<Offsets, KernelError> {
        match (&self.tracepoints, hook) {
            (Err(KernelError::NoField(of, what)), Hook::Tracepoint) => Err(KernelError::NoField(of, what)),
            _ => Ok(self.offsets),
        }
    }
}

fn offsets(types: &KernelBtf) -> Result<Offsets, KernelError> {
    let of = |path: &[(&'static str, &'static str)]| offset(types, path);
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
        regs_arguments: arguments(types)?,
        ..Offsets::default()
    };
    optional_fields::add(types, &mut offsets);
    Ok(offsets)
}

/// Returns the offsets in `pt_regs` of the first four arguments of a system call on this architecture.
fn arguments(types: &KernelBtf) -> Result<[u32; 4], KernelError> {
    let of = |register| offset(types, &[("pt_regs", register)]);
    if ARCH == "aarch64" {
        // `syscall_get_arguments`, arch/arm64/include/asm/syscall.h; the first one survives in `regs[0]`
        // until the exit.
        let first = of("regs")?;
        return Ok([first, first + 8, first + 16, first + 24]);
    }
    // `SC_X86_64_REGS_TO_ARGS`, arch/x86/include/asm/syscall_wrapper.h
    Ok([of("di")?, of("si")?, of("dx")?, of("r10")?])
}

/// Rejects a kernel whose tracepoints begin with longer common fields, as some vendors' real-time kernels
/// may.
fn check_tracepoints(types: &KernelBtf) -> Result<(), KernelError> {
    let entry = structure(types, "trace_entry")?;
    if entry.size() > LONGEST_COMMON_FIELDS {
        return Err(KernelError::NoField("trace_entry", "members of 12 bytes or less"));
    }
    Ok(())
}

/// Returns the offset in bytes of a member, along a path of nested members.
fn offset(types: &KernelBtf, path: &[(&'static str, &'static str)]) -> Result<u32, KernelError> {
    let mut total = 0;
    for (name, member) in path {
        let found = member_offset(types, &structure(types, name)?, member, DEPTH);
        total += found.ok_or(KernelError::NoField(name, member))?;
    }
    Ok(total)
}

fn structure(types: &KernelBtf, name: &'static str) -> Result<btf_rs::Struct, KernelError> {
    types
        .named(name)
        .into_iter()
        .find_map(|found| match found {
            Type::Struct(structure) => Some(structure),
            _ => None,
        })
        .ok_or(KernelError::NoField(name, "definition"))
}

/// Returns the offset in bytes of a member, including members of structures without a name.
fn member_offset(types: &KernelBtf, structure: &btf_rs::Struct, wanted: &str, depth: usize) -> Option<u32> {
    structure.members.iter().find_map(|member| {
        let bytes = member.bit_offset() / 8;
        match types.btf().resolve_name(member).unwrap_or_default().as_str() {
            name if name == wanted => Some(bytes),
            "" if depth > 0 => match types.btf().resolve_chained_type(member) {
                Ok(Type::Struct(inner) | Type::Union(inner)) => {
                    member_offset(types, &inner, wanted, depth - 1).map(|inside| bytes + inside)
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

    fn types() -> KernelBtf {
        KernelBtf::open(&NAMES.map(str::to_owned)).expect("the tests need a kernel with BTF")
    }

    /// A fact of every 64-bit kernel from 5.10 to 7.2: `struct qstr` is the hash, the length, the pointer.
    #[test]
    fn this_kernel_has_every_field() {
        let offsets = offsets(&types()).expect("the tests need a kernel of 5.10 or later");
        assert_eq!(offsets.dentry_name, offsets.dentry_hash_len + 8, "{offsets:?}");
        assert_eq!(offsets.fdt_fd, 8, "`max_fds` and padding come first");
        let [first, second, ..] = offsets.regs_arguments;
        assert_eq!(
            first.abs_diff(second),
            8,
            "registers are words, and the first two are adjacent: {offsets:?}"
        );
        assert!(offsets.task_files > 500, "`files` is deep in `task_struct`: {offsets:?}");
    }

    #[test]
    fn an_unknown_member_is_named() {
        let error = offset(&types(), &[("dentry", "d_nothing")]).expect_err("there is no such member");
        assert!(error.to_string().contains("`dentry.d_nothing`"), "{error}");
    }
}
