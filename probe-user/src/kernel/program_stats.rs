//! Statistics that the kernel keeps of the programs: how often it skipped them, and, while its run statistics
//! are on, how often and how long they ran.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsFd, AsRawFd},
    os::unix::fs::FileExt,
};

use aya::Ebpf;

use super::attach;
use crate::analysis::snapshot::ProgramRuns;

/// Size of the read buffer. The fdinfo of a program takes about 400 bytes.
const FDINFO_BYTES: usize = 1024;

/// The loaded programs, grouped by the calls that they observe, each with its fdinfo file. The kernel
/// generates the content again at each read from offset 0.
#[derive(Debug)]
pub struct ProgramStats(Vec<Vec<(String, File)>>);

impl ProgramStats {
    /// Finds the loaded programs. `ebpf` must stay in existence for as long as they are queried.
    pub fn of(ebpf: &Ebpf) -> Self {
        let mut by_primary: BTreeMap<&str, Vec<(String, File)>> = BTreeMap::new();
        for (name, program) in ebpf.programs() {
            let Ok(descriptor) = program.fd() else { continue };
            if let Ok(file) = File::open(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd())) {
                by_primary.entry(attach::primary_name(name)).or_default().push((name.to_owned(), file));
            }
        }
        Self(by_primary.into_values().collect())
    }

    /// Queries each program, with one system call each. Programs that observe the same calls are in one
    /// group.
    pub fn runs(&self) -> Vec<Vec<ProgramRuns>> {
        let one = |(program, file): &(String, File)| {
            let mut buffer = [0; FDINFO_BYTES];
            let read = file.read_at(&mut buffer, 0).unwrap_or(0);
            ProgramRuns { program: program.clone(), ..parse(&String::from_utf8_lossy(&buffer[..read])) }
        };
        self.0.iter().map(|group| group.iter().map(one).collect()).collect()
    }
}

/// Returns an upper bound of the calls that none of the programs on a hook recorded.
///
/// The kernel skips a program that is already running on the same CPU. On older tracepoints it also skips all
/// programs while a map is being updated on that CPU (`trace_call_bpf` in `kernel/trace/bpf_trace.c`). If a
/// hook has two programs, a call that one was skipped for was recorded by the other, unless that was skipped,
/// too. 0 if the kernel does not count: before Linux 5.12, for tracepoints before 6.7.
pub fn skipped_runs(runs: &[Vec<ProgramRuns>]) -> u64 {
    runs.iter().filter_map(|group| group.iter().map(|runs| runs.skipped).min()).sum()
}

/// Parses `/proc/PID/fdinfo` of a program (`bpf_prog_show_fdinfo` in `kernel/bpf/syscall.c`); an absent field
/// is 0.
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
    fn fdinfo_is_parsed() {
        let text = "pos:\t0\nprog_type:\t5\nrun_time_ns:\t1200\nrun_cnt:\t3\nrecursion_misses:\t7\n";
        assert_eq!(
            parse(text),
            ProgramRuns { count: 3, total_ns: 1200, skipped: 7, ..ProgramRuns::default() }
        );
        assert_eq!(
            parse("pos:\t0\n"),
            ProgramRuns::default(),
            "an old kernel, or a file that no longer exists"
        );
    }

    #[test]
    fn a_call_is_missed_only_if_both_programs_were_skipped() {
        let skipped_each = |counts: &[u64]| {
            counts
                .iter()
                .map(|skipped| ProgramRuns { skipped: *skipped, ..ProgramRuns::default() })
                .collect::<Vec<_>>()
        };
        assert_eq!(skipped_runs(&[skipped_each(&[5, 2]), skipped_each(&[3]), skipped_each(&[])]), 5);
    }
}
