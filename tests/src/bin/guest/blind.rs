//! A probe that becomes blind in this kernel reports it.

use std::path::Path;

use probe_tests::etcd::Member;
use probe_tests::faults::probe_faults::{self, ProbeFault};
use probe_tests::machine::scratch::Scratch;
use probe_tests::machine::vm::case::Case;
use probe_tests::machine::vm::{ETCD, FAULTY_PROBE};

use crate::machine::Machine;

pub fn detect(fault: ProbeFault, case: Case, machine: &Machine) -> anyhow::Result<String> {
    let scratch = Scratch::new(&machine.disk(case.file_system), "blind")?;
    let member = Member::new(Path::new(ETCD), "blinded", scratch.path());
    let hook = ["--hook", case.hook.as_str()];
    probe_faults::detect(fault, Path::new(FAULTY_PROBE), member, scratch.path(), &hook)
}
