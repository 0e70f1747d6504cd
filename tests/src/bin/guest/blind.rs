//! A probe that loses its sight in this kernel says so.

use std::path::Path;

use probe_tests::blinding::{self, Blinding};
use probe_tests::etcd::Member;
use probe_tests::scratch::Scratch;
use probe_tests::vm::case::Case;
use probe_tests::vm::{ETCD, FAULTY_PROBE};

use crate::machine::Machine;

pub fn is_found_out(blinding: Blinding, case: Case, machine: &Machine) -> anyhow::Result<String> {
    let scratch = Scratch::new(&machine.disk(case.file_system), "blind")?;
    let member = Member::new(Path::new(ETCD), "blinded", scratch.path());
    let hook = ["--hook", case.hook.as_str()];
    blinding::is_found_out(blinding, Path::new(FAULTY_PROBE), member, scratch.path(), &hook)
}
