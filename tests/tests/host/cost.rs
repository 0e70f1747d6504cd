//! The cost of the hot paths in instructions: time is noise on a shared machine.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::Context;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::loaded_programs;
use probe_tests::probe::{self, Invocation};

/// The size of one program: instructions that the verifier processes, which dominate the start, and its bytes
/// afterwards.
#[derive(Debug)]
struct Size {
    verified: u32,
    bytes: u32,
}

/// Limits by name prefix of the programs: about a third above the numbers of Linux 6.18 (other kernels differ
/// by as much). The kernel keeps fifteen bytes of a name.
const LIMITS: [(&str, Size); 6] = [
    ("sys_enter_", Size { verified: 13_500, bytes: 20_000 }),
    ("sys_exit_", Size { verified: 3_600, bytes: 9_000 }),
    ("block_bio_queue", Size { verified: 5_600, bytes: 8_000 }),
    ("block_rq_issue", Size { verified: 700, bytes: 4_000 }),
    ("block_rq_comple", Size { verified: 16_500, bytes: 5_000 }),
    ("block_bio_compl", Size { verified: 700, bytes: 3_000 }),
];

/// The limit for all of them together; it was once 530,000, and a start took a second.
const VERIFIED_IN_ALL: u32 = 80_000;

#[test]
fn the_verifier_has_little_to_look_at() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("cost").unwrap();
    let call = Invocation::new(&probe::binary().unwrap(), scratch.path());
    let probe = call.arguments(&["--hook", "tracepoint"]).run().unwrap();
    let own = loaded_programs::of(probe.pid());
    let mut sizes: BTreeMap<String, Vec<Size>> = BTreeMap::new();
    for program in aya::programs::loaded_programs() {
        let program = program.unwrap();
        if own.contains(&program.id()) {
            let verified = program.verified_instruction_count().expect("Linux reports it since 5.16");
            let bytes = program.size_translated().expect("root may read it");
            let name = program.name_as_str().expect("they have names").to_owned();
            println!("{name}: {verified} instructions verified, {bytes} bytes");
            sizes.entry(name).or_default().push(Size { verified, bytes });
        }
    }
    let mut in_all = 0;
    for (name, sizes) in &sizes {
        let limit = LIMITS.iter().find(|(start, _)| name.starts_with(start));
        let (_, limit) = limit.unwrap_or_else(|| panic!("{name} has no limit"));
        for size in sizes {
            in_all += size.verified;
            assert!(size.verified <= limit.verified && size.bytes <= limit.bytes, "{name}: {size:?}");
        }
    }
    assert!(in_all > 0 && in_all <= VERIFIED_IN_ALL, "{in_all} instructions in all");
}

/// The limit for encoding the metrics of one member: the daemon's work for a scrape, without the queries to
/// the kernel and etcd. It is a tenth above the count of 6.6 million as tests are compiled; with the release
/// options except link-time optimisation it was 3.6 million.
const INSTRUCTIONS_A_SCRAPE: u64 = 7_300_000;

/// Returns the instructions for this many encodings, as counted by valgrind.
fn instructions(times: u32) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", env!("CARGO_BIN_EXE_exposition")])
        .arg(times.to_string())
        .output()
        .context("cannot run valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let counted = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    counted.with_context(|| format!("valgrind counts nothing: {text}"))
}

#[test]
fn a_scrape_takes_few_instructions() {
    requirements::require(&[Need::Tool("valgrind", "valgrind")]);
    let each = (instructions(11).unwrap() - instructions(1).unwrap()) / 10;
    println!("{each} instructions a scrape");
    assert!(each > 100_000 && each <= INSTRUCTIONS_A_SCRAPE, "{each} instructions a scrape");
}
