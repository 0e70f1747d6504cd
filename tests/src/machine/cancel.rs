//! A cancellation flag that ends every wait of this crate early. Ctrl-C sets it in the demo; the tests never
//! do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

/// The polling interval of a wait.
pub const POLL: Duration = Duration::from_millis(20);

/// Cancels waits whose result is not needed any more. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Returns a flag that SIGINT and SIGTERM set, so that guards run and the process does not die at once.
    pub fn on_signals() -> anyhow::Result<Self> {
        let stop = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let listen = |kind| signal(kind).context("cannot listen for signals");
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
        };
        let shared = stop.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                shared.cancel();
            });
        });
        Ok(stop)
    }

    /// Cancels every wait that shares the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until `done` returns a value, for at most `limit`.
    ///
    /// Returns `None` after the limit, and an error if the flag was set or `done` failed.
    pub fn wait_for<T>(
        &self,
        limit: Duration,
        mut done: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        let started = Instant::now();
        loop {
            if self.is_cancelled() {
                bail!("interrupted");
            }
            if let Some(value) = done()? {
                return Ok(Some(value));
            }
            if started.elapsed() >= limit {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_with_the_value_the_limit_or_the_flag() {
        let stop = Cancel::default();
        let mut rounds = 0;
        let value = stop.wait_for(Duration::from_secs(5), || {
            rounds += 1;
            Ok((rounds == 2).then_some(rounds))
        });
        assert_eq!(value.unwrap(), Some(2), "the second round has the value");

        let nothing = stop.wait_for(Duration::ZERO, || Ok(None::<()>));
        assert_eq!(nothing.unwrap(), None, "the limit was reached");

        stop.clone().cancel();
        let interrupted = stop.wait_for(Duration::from_secs(5), || Ok(Some(())));
        assert!(interrupted.is_err(), "a clone sets the same flag");
    }
}
