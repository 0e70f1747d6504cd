//! What the kernel tells of the programs: when it skipped them; and how often and how long they ran, while it counts that.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsFd, AsRawFd},
    os::unix::fs::FileExt,
};

use aya::Ebpf;

use super::attach;
use crate::analysis::snapshot::ProgramRuns;

/// What the kernel tells of a program takes some 400 bytes.
const FDINFO_BYTES: usize = 1024;

/// The loaded programs, those that see the same calls together; of each what the kernel tells of it, which is told anew whenever
/// it is read from its beginning.
#[derive(Debug)]
pub struct Programs(Vec<Vec<(String, File)>>);

impl Programs {
    /// Finds those that are loaded; `ebpf` has to live for as long as they are asked after.
    pub fn of(ebpf: &Ebpf) -> Self {
        let mut by_place: BTreeMap<&str, Vec<(String, File)>> = BTreeMap::new();
        for (name, program) in ebpf.programs() {
            let Ok(descriptor) = program.fd() else { continue };
            if let Ok(file) = File::open(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd())) {
                by_place.entry(attach::place(name)).or_default().push((name.to_owned(), file));
            }
        }
        Self(by_place.into_values().collect())
    }

    /// Asks the kernel after each of them, one system call each; those that see the same calls together.
    pub fn runs(&self) -> Vec<Vec<ProgramRuns>> {
        let one = |(program, file): &(String, File)| {
            let mut buffer = [0; FDINFO_BYTES];
            let read = file.read_at(&mut buffer, 0).unwrap_or(0);
            ProgramRuns { program: program.clone(), ..parse(&String::from_utf8_lossy(&buffer[..read])) }
        };
        self.0.iter().map(|of_place| of_place.iter().map(one).collect()).collect()
    }
}

/// Returns how many calls none of the programs on a hook can have seen, at most.
///
/// The kernel does not run a program that is under way on the same CPU, nor on older tracepoints any while a map is updated
/// there (`trace_call_bpf` in `kernel/trace/bpf_trace.c`). Where a hook has two, what one was skipped for the other saw, unless
/// it was skipped, too. 0 where the kernel does not count: before Linux 5.12, for tracepoints before 6.7.
pub fn skipped(runs: &[Vec<ProgramRuns>]) -> u64 {
    runs.iter().filter_map(|of_place| of_place.iter().map(|runs| runs.skipped).min()).sum()
}

/// Reads `/proc/PID/fdinfo` of a program (`bpf_prog_show_fdinfo` in `kernel/bpf/syscall.c`); what is not there is 0.
fn parse(fdinfo: &str) -> ProgramRuns {
    let field = |name: &str| {
        let mut lines = fdinfo.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    ProgramRuns {
        program: String::new(),
        count: field("run_cnt"),
        total_ns: field("run_time_ns"),
        skipped: field("recursion_misses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read() {
        let text = "pos:\t0\nprog_type:\t5\nrun_time_ns:\t1200\nrun_cnt:\t3\nrecursion_misses:\t7\n";
        assert_eq!(
            parse(text),
            ProgramRuns { count: 3, total_ns: 1200, skipped: 7, ..ProgramRuns::default() }
        );
        assert_eq!(parse("pos:\t0\n"), ProgramRuns::default(), "an old kernel, or a file that is gone");
    }

    #[test]
    fn a_call_is_missed_only_by_what_both_programs_were_skipped_for() {
        let skipped_each = |counts: &[u64]| {
            counts
                .iter()
                .map(|skipped| ProgramRuns { skipped: *skipped, ..ProgramRuns::default() })
                .collect::<Vec<_>>()
        };
        assert_eq!(skipped(&[skipped_each(&[5, 2]), skipped_each(&[3]), skipped_each(&[])]), 5);
    }
}
