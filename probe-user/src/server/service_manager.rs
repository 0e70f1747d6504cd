//! Readiness, status and watchdog notifications for systemd or another service manager: `sd_notify(3)`,
//! `Type=notify`.
//!
//! The watchdog detects a daemon that hangs. A blind daemon keeps running: a restart would not help and would
//! discard the state of the cross-check. `/-/ready`, the metrics and the status report that it is blind.

mod status;

use std::{
    convert::Infallible,
    env, io,
    sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
    thread,
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::monitor::{SharedMonitor, lock};

/// Interval of the status, and of the watchdog notifications unless the watchdog requires a shorter one.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// Time limit for pending notifications when the daemon exits.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// Maximum number of pending notifications.
const QUEUE_LENGTH: usize = 4;

/// Stack size, sufficient for a loop that writes to a socket.
const STACK_BYTES: usize = 64 << 10;

/// The service manager that started the daemon, if any.
///
/// A separate thread sends the notifications: a manager that hangs, perhaps on the measured disk, must not
/// block the daemon.
#[derive(Debug)]
pub struct ServiceManager {
    notifier: Option<Notifier>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Notifier {
    queue: SyncSender<Notification>,
    /// Disconnected when the thread has sent everything.
    ended: Receiver<Infallible>,
}

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Notification {
    /// Ready, with the status.
    Ready(String),
    /// Watchdog notification, with the status if it has changed.
    Alive(Option<String>),
    Stopping,
}

impl ServiceManager {
    /// Reads the environment (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`). The daemon starts no program
    /// that could inherit it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn from_env() -> io::Result<Self> {
        if env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self { notifier: None, watchdog: None });
        }
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        Ok(Self { notifier: Some(Notifier::start(send)?), watchdog })
    }

    /// Sends readiness, then watchdog notifications and the status. Never returns.
    ///
    /// Runs on the daemon's only event loop and locks the monitor, as the scan with its self-test does. A
    /// watchdog notification therefore proves that the loop and the monitor are not stuck.
    pub async fn report_status(&self, monitor: &SharedMonitor) {
        let Some(notifier) = &self.notifier else { return std::future::pending().await };
        let mut ticks =
            interval(self.watchdog.map_or(STATUS_INTERVAL, |limit| (limit / 2).min(STATUS_INTERVAL)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported: Option<String> = None;
        loop {
            ticks.tick().await;
            let status = status::of(&lock(monitor));
            let message = match &reported {
                None => Notification::Ready(status.clone()),
                Some(before) => Notification::Alive((*before != status).then(|| status.clone())),
            };
            if notifier.queue(message) {
                reported = Some(status);
            }
        }
    }

    /// Sends that the daemon is stopping.
    pub fn notify_stopping(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.queue(Notification::Stopping);
        }
    }
}

impl Notifier {
    fn start(send: impl Fn(&Notification) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (queue, pending) = sync_channel(QUEUE_LENGTH);
        let (running, ended) = channel::<Infallible>();
        let builder = thread::Builder::new().name("notify".to_owned()).stack_size(STACK_BYTES);
        builder.spawn(move || {
            let _running = running;
            let mut failed = false;
            for message in pending {
                let outcome = send(&message);
                match &outcome {
                    // A lasting failure is logged once.
                    Err(error) if !failed => warn!(%error, "cannot notify the service manager"),
                    _ => {}
                }
                failed = outcome.is_err();
            }
        })?;
        Ok(Self { queue, ended })
    }

    /// Queues a notification; returns whether there was room.
    fn queue(&self, message: Notification) -> bool {
        self.queue.try_send(message).is_ok()
    }

    /// Waits until all notifications are sent, for a limited time.
    fn flush(self) {
        drop(self.queue);
        // No value is ever sent: the wait ends with the thread or the timeout.
        let _ = self.ended.recv_timeout(FLUSH_TIMEOUT);
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        if let Some(notifier) = self.notifier.take() {
            notifier.flush();
        }
    }
}

fn send(message: &Notification) -> io::Result<()> {
    match message {
        Notification::Ready(status) => {
            sd_notify::notify(&[NotifyState::Ready, NotifyState::Watchdog, NotifyState::Status(status)])
        }
        Notification::Alive(Some(status)) => {
            sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(status)])
        }
        Notification::Alive(None) => sd_notify::notify(&[NotifyState::Watchdog]),
        Notification::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_manager_that_hangs_does_not_block_the_daemon() {
        let (release, held) = channel::<Infallible>();
        let notifier = Notifier::start(move |_| {
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
        let begun = Instant::now();
        let taken = (0..20).filter(|_| notifier.queue(Notification::Alive(None))).count();
        // One may already be in the thread.
        assert!((QUEUE_LENGTH..=QUEUE_LENGTH + 1).contains(&taken), "{taken} notifications are pending");
        notifier.flush();
        assert!(begun.elapsed() < 10 * FLUSH_TIMEOUT, "it ended after {:?}", begun.elapsed());
        drop(release);
    }

    #[test]
    fn pending_notifications_are_sent_before_the_exit() {
        let (sent, received) = channel();
        let notifier = Notifier::start(move |message| {
            thread::sleep(Duration::from_millis(20));
            sent.send(message.clone()).map_err(io::Error::other)
        })
        .unwrap();
        assert!(
            notifier.queue(Notification::Ready("healthy".to_owned()))
                && notifier.queue(Notification::Stopping)
        );
        notifier.flush();
        let received: Vec<_> = received.try_iter().collect();
        assert_eq!(received, [Notification::Ready("healthy".to_owned()), Notification::Stopping]);
    }
}
