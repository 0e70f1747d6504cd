//! The process that slows etcd down, see `probe_tests::faults::worker`.

use anyhow::Context;
use probe_tests::faults::worker::{WORD, Work};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (word, task) = arguments.split_first().context("cannot do nothing")?;
    anyhow::ensure!(word == WORD, "cannot do {word}");
    Work::parse(task)?.run()
}
