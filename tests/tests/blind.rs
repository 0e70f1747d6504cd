//! A probe that has lost its sight says so, whatever it lost: it is not ready, and its verdict is `blind`.

use std::path::Path;

use probe_tests::blinding::{self, Blinding};
use probe_tests::etcd::{self, Member};
use probe_tests::needs::{self, Need};
use probe_tests::scratch::Scratch;

fn assert_found_out(blinding: Blinding, name: &str) {
    needs::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5.16")]);
    let scratch = Scratch::on_disk("blind").unwrap();
    let member = Member::new(&etcd::find("3.5.16").unwrap(), name, scratch.path());
    let faulty = Path::new(env!("CARGO_BIN_EXE_faulty-probe"));
    println!("{}", blinding::is_found_out(blinding, faulty, member, scratch.path(), &[]).unwrap());
}

#[test]
fn hooks_that_are_detached_behind_its_back_are_missed() {
    assert_found_out(Blinding::Detached, "detached");
}

#[test]
fn a_table_that_is_full_of_others_is_noticed() {
    assert_found_out(Blinding::Filled, "filled");
}
