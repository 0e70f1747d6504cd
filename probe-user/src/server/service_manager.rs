//! What systemd, or whoever else started the daemon, is told of it: `Type=notify` and the watchdog of `sd_notify(3)`.
//!
//! The watchdog is for a daemon that hangs. One that is blind goes on: a restart gives nobody his sight back, and forgets what the
//! cross-check has learnt; `/-/ready`, the metrics and the status say that it is blind.

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

/// How often the status is looked at, and the watchdog fed if that asks for no more.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// How long a daemon that ends waits for its last word to be heard.
const PARTING: Duration = Duration::from_millis(200);

/// Messages that may wait to be sent.
const WAITING: usize = 4;

/// Enough for a loop that writes to a socket.
const STACK_BYTES: usize = 64 << 10;

/// Somebody who wants to know how the daemon is, if there is somebody.
///
/// A thread speaks to him: a manager that hangs, perhaps on the very disk that is measured, must not stop the daemon.
#[derive(Debug)]
pub struct ServiceManager {
    listener: Option<Listener>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Listener {
    messages: SyncSender<Message>,
    /// Disconnected when the thread has said all.
    ended: Receiver<Infallible>,
}

/// What is said at once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
    /// It is ready, and how it is.
    Ready(String),
    /// It lives; and how it is, if that is news.
    Alive(Option<String>),
    Stopping,
}

impl ServiceManager {
    /// Takes what the environment says (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`). The daemon starts no program that could
    /// inherit it.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn of_environment() -> io::Result<Self> {
        if env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self { listener: None, watchdog: None });
        }
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        Ok(Self { listener: Some(Listener::start(send)?), watchdog })
    }

    /// Says that the daemon is ready, and from then on that it lives and how it is. Ends never.
    ///
    /// It runs on the daemon's only loop and looks at the monitor, as the scan with its self-test does; so neither is stuck where
    /// this speaks.
    pub async fn keep_informed(&self, monitor: &SharedMonitor) {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        let mut ticks = interval(self.watchdog.map_or(TOLD_EVERY, |limit| (limit / 2).min(TOLD_EVERY)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: Option<String> = None;
        loop {
            ticks.tick().await;
            let status = status::of(&lock(monitor));
            let message = match &told {
                None => Message::Ready(status.clone()),
                Some(before) => Message::Alive((*before != status).then(|| status.clone())),
            };
            if listener.tell(message) {
                told = Some(status);
            }
        }
    }

    /// Says that the daemon is about to end.
    pub fn tell_stopping(&self) {
        if let Some(listener) = &self.listener {
            listener.tell(Message::Stopping);
        }
    }
}

impl Listener {
    fn start(send: impl Fn(&Message) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (messages, waiting) = sync_channel(WAITING);
        let (speaking, ended) = channel::<Infallible>();
        let builder = thread::Builder::new().name("notify".to_owned()).stack_size(STACK_BYTES);
        builder.spawn(move || {
            let _speaking = speaking;
            let mut failed = false;
            for message in waiting {
                let outcome = send(&message);
                match &outcome {
                    // A lasting failure is told once.
                    Err(error) if !failed => warn!(%error, "cannot tell the service manager how this is"),
                    _ => {}
                }
                failed = outcome.is_err();
            }
        })?;
        Ok(Self { messages, ended })
    }

    /// Returns whether there was room for one more message.
    fn tell(&self, message: Message) -> bool {
        self.messages.try_send(message).is_ok()
    }

    /// Waits until all was said, but not for long.
    fn part(self) {
        drop(self.messages);
        // Nothing is ever sent: it ends with the thread, or with the patience.
        let _ = self.ended.recv_timeout(PARTING);
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.part();
        }
    }
}

fn send(message: &Message) -> io::Result<()> {
    match message {
        Message::Ready(status) => {
            sd_notify::notify(&[NotifyState::Ready, NotifyState::Watchdog, NotifyState::Status(status)])
        }
        Message::Alive(Some(status)) => {
            sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(status)])
        }
        Message::Alive(None) => sd_notify::notify(&[NotifyState::Watchdog]),
        Message::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_manager_that_hangs_holds_nobody_up() {
        let (release, held) = channel::<Infallible>();
        let listener = Listener::start(move |_| {
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
        let begun = Instant::now();
        let taken = (0..20).filter(|_| listener.tell(Message::Alive(None))).count();
        // One may be on its way already.
        assert!((WAITING..=WAITING + 1).contains(&taken), "{taken} messages wait");
        listener.part();
        assert!(begun.elapsed() < 10 * PARTING, "it ended after {:?}", begun.elapsed());
        drop(release);
    }

    #[test]
    fn the_last_word_is_said_before_the_end() {
        let (heard, words) = channel();
        let listener = Listener::start(move |message| {
            thread::sleep(Duration::from_millis(20));
            heard.send(message.clone()).map_err(io::Error::other)
        })
        .unwrap();
        assert!(listener.tell(Message::Ready("well".to_owned())) && listener.tell(Message::Stopping));
        listener.part();
        let said: Vec<_> = words.try_iter().collect();
        assert_eq!(said, [Message::Ready("well".to_owned()), Message::Stopping]);
    }
}
