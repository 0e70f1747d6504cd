//! Optional fields: a field that the kernel lacks is [`ABSENT`]. The information that depends on it is then a
//! counted miss, or absent from the evidence.

use btf_rs::Type;
use probe_ebpf::offsets::{ABSENT, Offsets};

use super::{KernelBtf, offset};

/// Adds the offsets of the CPU time of threads, the cgroup of a process, and the properties of block
/// requests.
pub fn add(types: &KernelBtf, offsets: &mut Offsets) {
    let of = |path: &[(&'static str, &'static str)]| offset(types, path).unwrap_or(ABSENT);
    offsets.task_exec = of(&[("task_struct", "se"), ("sched_entity", "sum_exec_runtime")]);
    offsets.task_run_delay = of(&[("task_struct", "sched_info"), ("sched_info", "run_delay")]);
    // Renamed by commit 2f064a59a11f (Linux 5.14).
    offsets.task_state =
        offset(types, &[("task_struct", "__state")]).unwrap_or_else(|_| of(&[("task_struct", "state")]));
    offsets.task_flags = of(&[("task_struct", "flags")]);
    offsets.task_cgroups = of(&[("task_struct", "cgroups")]);
    offsets.task_tgid = of(&[("task_struct", "tgid")]);
    offsets.task_pid = of(&[("task_struct", "pid")]);
    offsets.task_comm = of(&[("task_struct", "comm")]);
    offsets.css_set_io = match (of(&[("css_set", "subsys")]), value(types, "cgroup_subsys_id", "io_cgrp_id"))
    {
        (ABSENT, _) | (_, None) => ABSENT,
        (first, Some(index)) => first + index * 8,
    };
    offsets.css_cgroup = of(&[("cgroup_subsys_state", "cgroup")]);
    offsets.cgroup_kn = of(&[("cgroup", "kn")]);
    offsets.kn_id = of(&[("kernfs_node", "id")]);
    offsets.file_pos = of(&[("file", "f_pos")]);
    offsets.bio_bdev = of(&[("bio", "bi_bdev")]);
    offsets.bdev_dev = of(&[("block_device", "bd_dev")]);
    offsets.bio_disk = of(&[("bio", "bi_disk")]);
    offsets.disk_major = of(&[("gendisk", "major")]);
    offsets.disk_first_minor = of(&[("gendisk", "first_minor")]);
    offsets.bio_opf = of(&[("bio", "bi_opf")]);
    offsets.bio_size = of(&[("bio", "bi_iter"), ("bvec_iter", "bi_size")]);
    offsets.bio_blkg = of(&[("bio", "bi_blkg")]);
    offsets.blkg_blkcg = of(&[("blkcg_gq", "blkcg")]);
    offsets.blkcg_cgroup = of(&[("blkcg", "css"), ("cgroup_subsys_state", "cgroup")]);
    offsets.bio_next = of(&[("bio", "bi_next")]);
    offsets.request_bio = of(&[("request", "bio")]);
    offsets.request_flags = of(&[("request", "cmd_flags")]);
    offsets.request_disk = of(&[("request", "rq_disk")]);
    offsets.request_queue = of(&[("request", "q")]);
    offsets.queue_disk = of(&[("request_queue", "disk")]);
    let flag = |name| value(types, "req_flag_bits", name).map_or(0, |bit| 1 << bit);
    offsets.flush_flags = flag("__REQ_PREFLUSH") | flag("__REQ_FUA");
    offsets.bio_queue_argument = last_argument(types, "btf_trace_block_bio_queue");
    offsets.bio_complete_argument = last_argument(types, "btf_trace_block_bio_complete");
    offsets.rq_issue_argument = last_argument(types, "btf_trace_block_rq_issue");
}

/// Returns the value of an enumeration's constant.
fn value(types: &KernelBtf, enumeration: &str, constant: &str) -> Option<u32> {
    types.named(enumeration).into_iter().find_map(|found| match found {
        Type::Enum(found) => {
            let member = found
                .members
                .iter()
                .find(|member| types.btf().resolve_name(*member).is_ok_and(|name| name == constant))?;
            Some(member.val())
        }
        _ => None,
    })
}

/// Returns the index of a tracepoint's last argument: the bio or request, which follows the queue on kernels
/// that pass one. The type of the tracepoint's function begins with a pointer to its data, which programs do
/// not get.
fn last_argument(types: &KernelBtf, tracepoint: &str) -> u32 {
    let parameters = types.named(tracepoint).into_iter().find_map(|found| {
        let Type::Typedef(function) = found else { return None };
        types.btf().chained_type_iter(&function).find_map(|inner| match inner {
            Type::FuncProto(prototype) => Some(prototype.parameters.len()),
            _ => None,
        })
    });
    u32::from(parameters.is_some_and(|count| count >= 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::struct_offsets::NAMES;

    #[test]
    fn this_kernel_has_the_fields_of_cpu_time_and_of_requests() {
        let types = KernelBtf::open(&NAMES.map(str::to_owned)).expect("the tests need a kernel with BTF");
        let mut offsets = Offsets::default();
        add(&types, &mut offsets);
        for (name, offset) in [
            ("sum_exec_runtime", offsets.task_exec),
            ("run_delay", offsets.task_run_delay),
            ("bi_opf", offsets.bio_opf),
            ("cgroup_id", offsets.kn_id),
            ("request.bio", offsets.request_bio),
        ] {
            assert_ne!(offset, ABSENT, "{name}");
        }
        assert!(offsets.bio_bdev != ABSENT || offsets.bio_disk != ABSENT, "a bio is on a device");
        assert_eq!(offsets.flush_flags.count_ones(), 2, "PREFLUSH and FUA: {:#x}", offsets.flush_flags);
    }
}
