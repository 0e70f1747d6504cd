//! A blind probe reports this for every cause: it is not ready, and its verdict is `blind`.

use std::path::Path;

use probe_tests::etcd::{self, Member};
use probe_tests::faults::probe_faults::{self, ProbeFault};
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;

fn assert_found_out(fault: ProbeFault, name: &str) {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("blind").unwrap();
    let member = Member::new(&etcd::find("3.5.16").unwrap(), name, scratch.path());
    let faulty = Path::new(env!("CARGO_BIN_EXE_faulty-probe"));
    println!("{}", probe_faults::detect(fault, faulty, member, scratch.path(), &[]).unwrap());
}

#[test]
fn detached_hooks_are_detected() {
    assert_found_out(ProbeFault::Detached, "detached");
}

#[test]
fn a_full_table_of_threads_is_detected() {
    assert_found_out(ProbeFault::ThreadsFull, "filled");
}
