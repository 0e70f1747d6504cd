//! A process that calls itself `etcd` when it is started under that name, but only syncs a file that looks
//! like a WAL.
//!
//! `namesake FILE SYNCS` prints `done` after its syncs and stays, with the file open, until its standard
//! input ends.

use std::fs::File;
use std::io::{self, Read, Write};

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("cannot do without a file")?;
    let syncs: u32 = arguments.next().context("cannot do without a number")?.parse()?;
    let mut file = File::create(&path).with_context(|| format!("cannot create {path}"))?;
    for _ in 0..syncs {
        file.write_all(&[b'x'; 512]).with_context(|| format!("cannot write {path}"))?;
        // fdatasync(2), as etcd does.
        file.sync_data().with_context(|| format!("cannot sync {path}"))?;
    }
    println!("done");
    io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the end of standard input")?;
    Ok(())
}
