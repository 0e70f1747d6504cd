//! The tracers that the benchmark compares the probe with. Nothing else needs them.

use super::apt;
use crate::process::find;

/// A program, and the package that has it.
const PEERS: [(&str, &str); 4] =
    [("bpftrace", "bpftrace"), ("syscount", "libbpf-tools"), ("perf", "linux-perf"), ("strace", "strace")];

/// Installs missing tracers one by one, and reports unavailable ones: the benchmark continues without them.
pub fn setup() {
    for (program, package) in PEERS {
        if find(program).is_none()
            && let Err(error) = apt::install(&[package.to_owned()])
        {
            eprintln!("setup: measuring without {program}: {error:#}");
        }
    }
}
