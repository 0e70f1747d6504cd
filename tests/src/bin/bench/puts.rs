//! Timed puts: as many as possible, or at a fixed rate regardless of earlier ones.
//!
//! At a fixed rate each put has a due time (an open loop). When etcd stalls, the puts that become due
//! meanwhile wait, and their wait counts: a generator that waits for one answer before the next put measures
//! the stall once, and hides it.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use probe_tests::etcd::grpc::Puts;
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::Endpoint;
use tokio::sync::mpsc;

/// The rate of puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// One at a time for each of this many connections.
    Full { connections: u32 },
    /// As many as are due, with at most this many in flight.
    PerSecond { puts: u32, connections: u32 },
}

/// The number of keys, which are overwritten in turn.
const KEYS: u64 = 1000;

const VALUE_BYTES: usize = 256;

/// One put that etcd confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The due time; at full load, the time of sending.
    pub due: Instant,
    pub done: Instant,
}

/// Puts in progress, on separate threads. Ended on drop.
pub struct Generator {
    stop: Cancel,
    done: Arc<Mutex<Vec<Put>>>,
    clock: Option<JoinHandle<()>>,
    putting: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Generator {
    pub fn start(endpoint: &Endpoint, pace: Pace) -> Self {
        let (stop, done) = (Cancel::default(), Arc::new(Mutex::new(Vec::new())));
        let (connections, clock, tickets) = match pace {
            Pace::Full { connections } => (connections, None, None),
            Pace::PerSecond { puts, connections } => {
                let (send, receive) = mpsc::unbounded_channel();
                let stop = stop.clone();
                // A separate thread: the runtime's timer has a resolution of a millisecond.
                let clock = thread::spawn(move || tick(puts, &stop, &send));
                (connections, Some(clock), Some(Arc::new(tokio::sync::Mutex::new(receive))))
            }
        };
        let connection =
            Connection { endpoint: endpoint.clone(), stop: stop.clone(), done: done.clone(), tickets };
        let putting = thread::spawn(move || {
            // One thread: etcd needs the other core.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let all: Vec<_> =
                    (0..connections).map(|n| tokio::spawn(connection.clone().run(n.into()))).collect();
                for one in all {
                    one.await.context("a connection panicked")??;
                }
                Ok(())
            })
        });
        Self { stop, done, clock, putting: Some(putting) }
    }

    /// Returns the puts completed since the last call.
    pub fn take(&self) -> anyhow::Result<Vec<Put>> {
        if self.putting.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the load ended early");
        }
        Ok(std::mem::take(&mut *self.done.lock().expect("no thread panics while it holds the lock")))
    }

    /// Ends it after the puts in flight.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        if self.clock.take().is_some_and(|clock| clock.join().is_err()) {
            bail!("the clock of the load panicked");
        }
        match self.putting.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(ended) => ended.unwrap_or_else(|_| bail!("the load panicked")),
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            eprintln!("cannot put: {error:#}");
        }
    }
}

/// Sends the due time of each put when it is reached.
fn tick(per_second: u32, stop: &Cancel, tickets: &mpsc::UnboundedSender<Instant>) {
    let started = Instant::now();
    for n in 0_u32.. {
        let due = due(started, n, per_second);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.is_cancelled() || tickets.send(due).is_err() {
            break;
        }
    }
}

/// Returns the due time of the nth put, which does not depend on when any other put completed.
fn due(started: Instant, n: u32, per_second: u32) -> Instant {
    started + Duration::from_secs(n.into()) / per_second
}

#[derive(Clone)]
struct Connection {
    endpoint: Endpoint,
    stop: Cancel,
    done: Arc<Mutex<Vec<Put>>>,
    /// `None`: it puts without a pause.
    tickets: Option<Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Instant>>>>,
}

impl Connection {
    async fn run(self, first: u64) -> anyhow::Result<()> {
        let mut puts = Puts::connect(&self.endpoint).await?;
        let value = [b'v'; VALUE_BYTES];
        // Each connection starts at another key.
        for n in (first * KEYS / 7).. {
            let due = match &self.tickets {
                None => Instant::now(),
                Some(tickets) => match tickets.lock().await.recv().await {
                    Some(due) => due,
                    None => break,
                },
            };
            if self.stop.is_cancelled() {
                break;
            }
            puts.put(format!("key-{}", n % KEYS).as_bytes(), &value).await?;
            let put = Put { due, done: Instant::now() };
            self.done.lock().expect("no thread panics while it holds the lock").push(put);
        }
        Ok(())
    }
}

/// The puts between two points in time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    pub seconds: f64,
    /// The puts that completed in the interval, whenever they were due.
    pub done: usize,
    /// The nanoseconds of the puts that were also due in it.
    pub latencies_ns: Vec<u64>,
}

impl Window {
    pub fn of(puts: &[Put], from: Instant, to: Instant) -> Self {
        let done: Vec<_> = puts.iter().filter(|put| (from..to).contains(&put.done)).collect();
        let whole = done.iter().filter(|put| put.due >= from);
        let ns = |put: &&&Put| u64::try_from((put.done - put.due).as_nanos()).unwrap_or(u64::MAX);
        Self {
            seconds: (to - from).as_secs_f64(),
            done: done.len(),
            latencies_ns: whole.map(|put| ns(&put)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_are_due_at_their_time() {
        let started = Instant::now();
        let cases = [(0, 0), (1, 2), (500, 1000), (1_000_000, 2_000_000)];
        for (n, expected_ms) in cases {
            assert_eq!(due(started, n, 500), started + Duration::from_millis(expected_ms), "put {n}");
        }
    }

    #[test]
    fn a_stall_counts_for_every_put_due_in_it() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        // Four puts that are due at 0, 2, 4 and 6 ms, all of which complete at 10 ms.
        let puts: Vec<_> = (0..4).map(|n| Put { due: due(started, n, 500), done: at(10) }).collect();
        let window = Window::of(&puts, started, at(20));
        assert_eq!(window.latencies_ns, [10_000_000, 8_000_000, 6_000_000, 4_000_000]);
        assert_eq!((window.done, window.seconds), (4, 0.02));
    }

    #[test]
    fn puts_that_straddle_a_window_have_no_latency_in_it() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let puts =
            [(0, 5), (5, 15), (12, 18), (18, 25)].map(|(due, done)| Put { due: at(due), done: at(done) });
        let window = Window::of(&puts, at(10), at(20));
        assert_eq!(window.done, 2, "the puts completed in it");
        assert_eq!(window.latencies_ns, [6_000_000], "the one that was due in it, too");
    }
}
