//! Other processes that make the same system calls all the time: a hook whose state is shared by the whole
//! host (a kretprobe's, say) loses returns when they block.

use std::fs::OpenOptions;
use std::io::{self, PipeReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::{self, JoinHandle};

use crate::machine::cancel::Cancel;
use anyhow::{Context, ensure};

/// More threads than the kernel keeps kretprobe instances for on two CPUs.
const WRITERS: usize = 20;
const SYNCERS: usize = 6;

/// The number of all these threads.
pub const COUNT: usize = WRITERS + SYNCERS;

/// Threads blocked in `write`, and others that are always in `fdatasync` or `fsync`. Ended on drop.
pub struct Neighbours {
    stop: Cancel,
    writers: Vec<JoinHandle<()>>,
    syncers: Vec<JoinHandle<io::Result<u64>>>,
    /// Full pipes without a reader.
    pipes: Vec<PipeReader>,
}

impl Neighbours {
    /// Starts them; none is called etcd. The syncing threads use files in `directory`.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let stop = Cancel::default();
        let mut neighbours =
            Self { stop: stop.clone(), writers: Vec::new(), syncers: Vec::new(), pipes: Vec::new() };
        for _ in 0..WRITERS {
            let (reader, mut writer) = io::pipe().context("cannot make a pipe")?;
            neighbours.pipes.push(reader);
            neighbours.writers.push(thread::spawn(move || {
                // Blocks when the pipe is full, and fails when it is closed.
                while writer.write_all(&[0; 4096]).is_ok() {}
            }));
        }
        for n in 0..SYNCERS {
            let path = directory.join(format!("neighbour-{n}"));
            let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path);
            let file = file.with_context(|| format!("cannot create {}", path.display()))?;
            let stop = stop.clone();
            neighbours.syncers.push(thread::spawn(move || {
                let mut syncs = 0;
                while !stop.is_cancelled() {
                    file.write_all_at(&[1; 512], 0)?;
                    if n % 2 == 0 { file.sync_data() } else { file.sync_all() }?;
                    syncs += 1;
                }
                Ok(syncs)
            }));
        }
        Ok(neighbours)
    }

    /// Ends them and returns the number of their syncs. Also checks that the writers were still blocked in
    /// `write`.
    pub fn stop(mut self) -> anyhow::Result<u64> {
        ensure!(self.writers.iter().all(|writer| !writer.is_finished()), "a neighbour left its write");
        self.pipes.clear();
        self.stop.cancel();
        let mut syncs = 0;
        for syncer in self.syncers.drain(..) {
            let result = syncer.join().ok().context("a neighbour panicked")?;
            syncs += result.context("a neighbour cannot sync")?;
        }
        Ok(syncs)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
