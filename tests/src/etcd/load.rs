//! Puts load on etcd through gRPC over several connections, counted and bounded.
//!
//! It does not use the JSON gateway, which decodes a put and then calls etcd over TLS again: several times
//! the CPU.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::etcd::grpc::Puts;
use crate::machine::cancel::Cancel;
use crate::machine::http::Endpoint;

/// The delay before a tolerant connection retries.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The interval between progress reports.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// When a load ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Amount {
    Puts(u64),
    Lasting(Duration),
    /// Whichever comes first.
    PutsWithin(u64, Duration),
    UntilStopped,
    /// Until stopped, with this pause after each put of a connection.
    Paced(Duration),
}

impl Amount {
    fn puts(self) -> u64 {
        match self {
            Self::Puts(puts) | Self::PutsWithin(puts, _) => puts,
            Self::Lasting(_) | Self::UntilStopped | Self::Paced(_) => u64::MAX,
        }
    }

    fn within(self) -> Option<Duration> {
        match self {
            Self::Lasting(limit) | Self::PutsWithin(_, limit) => Some(limit),
            Self::Puts(_) | Self::UntilStopped | Self::Paced(_) => None,
        }
    }

    fn pause(self) -> Option<Duration> {
        match self {
            Self::Paced(pause) => Some(pause),
            _ => None,
        }
    }
}

/// The parameters of a load. The default is 8 connections and 4 KiB values: 16,000 puts rotate the WAL.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub amount: Amount,
    pub connections: u32,
    pub value_bytes: usize,
    /// The number of keys, which are overwritten in turn.
    pub keys: u64,
    /// Whether a failed put is counted and retried, as when a test kills etcd. Otherwise it ends the load.
    pub tolerant: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self { amount: Amount::UntilStopped, connections: 8, value_bytes: 4096, keys: 2000, tolerant: false }
    }
}

/// The progress or result of a load.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Puts that etcd confirmed.
    pub puts: u64,
    /// Failed attempts; only a tolerant load continues after one.
    pub failures: u64,
    pub elapsed: Duration,
}

impl Done {
    /// Returns confirmed puts per second.
    pub fn rate(&self) -> f64 {
        self.puts as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

#[derive(Debug, Default)]
struct Counts {
    tickets: AtomicU64,
    puts: AtomicU64,
    failures: AtomicU64,
    error: Mutex<Option<anyhow::Error>>,
}

/// A load in progress, on a thread of its own. Ended on drop.
#[derive(Debug)]
pub struct Running {
    counts: Arc<Counts>,
    stop: Cancel,
    started: Instant,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    /// Starts the load.
    pub fn start(self, endpoint: Endpoint) -> Running {
        let (counts, stop) = (Arc::new(Counts::default()), Cancel::default());
        let started = Instant::now();
        let worker = Worker {
            load: self,
            endpoint,
            counts: counts.clone(),
            stop: stop.clone(),
            deadline: self.amount.within().map(|limit| started + limit),
            value: vec![b'v'; self.value_bytes].into(),
        };
        let thread = Some(thread::spawn(move || worker.run_all()));
        Running { counts, stop, started, thread }
    }
}

impl Running {
    /// Returns the progress so far.
    pub fn so_far(&self) -> Done {
        Done {
            puts: self.counts.puts.load(Ordering::Relaxed),
            failures: self.counts.failures.load(Ordering::Relaxed),
            elapsed: self.started.elapsed(),
        }
    }

    /// Returns whether the load has ended by itself.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the load after the puts in flight.
    pub fn stop(self) -> anyhow::Result<Done> {
        self.stop.cancel();
        self.wait()
    }

    /// Waits until the load ends by itself.
    pub fn wait(mut self) -> anyhow::Result<Done> {
        self.finish()
    }

    /// Waits like [`Running::wait`] and calls `progress` once a second; an error from it ends the load.
    pub fn wait_with(mut self, mut progress: impl FnMut(Done) -> anyhow::Result<()>) -> anyhow::Result<Done> {
        let mut reported = Instant::now();
        while !self.is_over() {
            thread::sleep(crate::machine::cancel::POLL);
            if reported.elapsed() >= PROGRESS_EVERY {
                reported = Instant::now();
                progress(self.so_far())?;
            }
        }
        self.finish()
    }

    fn finish(&mut self) -> anyhow::Result<Done> {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            bail!("cannot put load on etcd: a thread panicked");
        }
        let done = self.so_far();
        let error = self.counts.error.lock().expect("no thread panics while it holds the lock").take();
        match error {
            Some(error) => Err(error.context(format!("cannot go on after {} puts", done.puts))),
            None => Ok(done),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Err(error) = self.finish() {
            eprintln!("{error:#}");
        }
    }
}

/// One of the connections, or the template for all of them.
#[derive(Clone)]
struct Worker {
    load: Load,
    endpoint: Endpoint,
    counts: Arc<Counts>,
    stop: Cancel,
    deadline: Option<Instant>,
    value: Arc<[u8]>,
}

impl Worker {
    fn run_all(self) -> anyhow::Result<()> {
        // One thread: etcd needs the other cores, and a put costs the client little.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let workers: Vec<_> =
                (0..self.load.connections).map(|_| tokio::spawn(self.clone().run())).collect();
            for worker in workers {
                worker.await.context("cannot put load on etcd")?;
            }
            Ok(())
        })
    }

    async fn run(self) {
        let mut connection = None;
        while let Some(ticket) = self.next() {
            while let Err(error) = self.put(&mut connection, ticket).await {
                connection = None;
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
                if !self.load.tolerant {
                    self.counts
                        .error
                        .lock()
                        .expect("no thread panics while it holds the lock")
                        .get_or_insert(error);
                    self.stop.cancel();
                }
                if self.is_over() {
                    return;
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
            self.counts.puts.fetch_add(1, Ordering::Relaxed);
            if let Some(pause) = self.load.amount.pause() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Returns the number of the next put, or `None` at the end of the load.
    fn next(&self) -> Option<u64> {
        if self.is_over() {
            return None;
        }
        let ticket = self.counts.tickets.fetch_add(1, Ordering::Relaxed);
        (ticket < self.load.amount.puts()).then_some(ticket)
    }

    async fn put(&self, connection: &mut Option<Puts>, ticket: u64) -> anyhow::Result<()> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Puts::connect(&self.endpoint).await?,
        };
        let key = format!("key-{}", ticket % self.load.keys.max(1));
        open.put(key.as_bytes(), &self.value).await?;
        *connection = Some(open);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::http::free_address;

    #[test]
    fn failures_end_a_load_unless_it_is_tolerant() {
        let unserved = Endpoint::plain(free_address().unwrap());
        let load = Load { amount: Amount::Puts(10), ..Load::default() };
        let error = load.start(unserved.clone()).wait().unwrap_err();
        assert_eq!(error.to_string(), "cannot go on after 0 puts");

        let tolerant = Load { amount: Amount::Lasting(Duration::from_millis(200)), tolerant: true, ..load };
        let done = tolerant.start(unserved).wait().unwrap();
        assert!(done.puts == 0 && done.failures > 0, "{done:?}");
    }
}
