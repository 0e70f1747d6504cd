//! The tracers that the probe is measured beside. None of them is needed for anything else.

use super::apt;
use crate::process::find;

/// A program, and the package that has it.
const PEERS: [(&str, &str); 4] =
    [("bpftrace", "bpftrace"), ("syscount", "libbpf-tools"), ("perf", "linux-perf"), ("strace", "strace")];

/// Installs those that are missing, each by itself, and names those that cannot be had: the benchmark goes on without.
pub fn setup() {
    for (program, package) in PEERS {
        if find(program).is_none()
            && let Err(error) = apt::install(&[package.to_owned()])
        {
            eprintln!("setup: measuring without {program}: {error:#}");
        }
    }
}
