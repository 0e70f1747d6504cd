//! What a connection is at, since when, and until when it may be.
//!
//! hyper has one limit, on the time that a request's head takes, and it runs while a connection waits for the next request, too.
//! Here waiting, asking and taking the answer have limits of their own.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::Instant,
};

use super::limits::Limits;

/// What one connection is at. Shared by its stream, its requests and whoever watches over it.
#[derive(Clone)]
pub struct Activity {
    state: Arc<Mutex<State>>,
    limits: Limits,
}

struct State {
    phase: Phase,
    /// Since when.
    since: Instant,
    /// Whether its requests come one after the other, as in HTTP/1.
    in_turn: bool,
    next: u64,
    /// Requests that are being answered, by number, with their begin; the first is the oldest.
    open: BTreeMap<u64, Instant>,
    /// The answer that is finished and not sent, with what it holds; of requests in turn only.
    unsent: Option<(Instant, Option<OwnedSemaphorePermit>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Idle,
    /// A request has begun to arrive.
    Head,
}

impl Activity {
    pub fn new(limits: Limits) -> Self {
        let state = State {
            phase: Phase::Handshake,
            since: Instant::now(),
            in_turn: true,
            next: 0,
            open: BTreeMap::new(),
            unsent: None,
        };
        Self { state: Arc::new(Mutex::new(state)), limits }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The handshake is over. Requests come one after the other, or several at once.
    pub fn established(&self, in_turn: bool) {
        let mut state = self.state();
        (state.phase, state.since, state.in_turn) = (Phase::Idle, Instant::now(), in_turn);
    }

    /// A request is there; it is under way until the turn is dropped.
    pub fn begin(&self) -> Turn {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, Instant::now());
        Turn { activity: self.clone(), number, permit: None }
    }

    /// Returns when it will have taken too long.
    pub fn deadline(&self) -> Instant {
        let state = self.state();
        let oldest = state.open.values().next().copied();
        let oldest = state.unsent.as_ref().map(|(begun, _)| *begun).or(oldest);
        oldest.map_or_else(
            || {
                state.since
                    + match state.phase {
                        Phase::Handshake => self.limits.handshake,
                        Phase::Idle => self.limits.idle,
                        Phase::Head => self.limits.head,
                    }
            },
            |begun| begun + self.limits.request,
        )
    }

    /// Returns since when nothing is asked, if so: such a connection makes room for another.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.open.is_empty() && state.unsent.is_none()).then_some(state.since)
    }

    fn received(&self) {
        let mut state = self.state();
        if state.in_turn && state.phase == Phase::Idle && state.open.is_empty() && state.unsent.is_none() {
            (state.phase, state.since) = (Phase::Head, Instant::now());
        }
    }

    fn sent(&self) {
        let mut state = self.state();
        if state.open.is_empty() && state.unsent.take().is_some() {
            (state.phase, state.since) = (Phase::Idle, Instant::now());
        }
    }
}

/// One request under way; goes with the body of its answer.
pub struct Turn {
    activity: Activity,
    number: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Holds this until the answer is sent.
    pub fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        let Some(begun) = state.open.remove(&self.number) else { return };
        if state.in_turn {
            state.unsent = Some((begun, self.permit.take()));
        } else if state.open.is_empty() {
            // Of several at once, each is handed on in pieces as the client takes them, so the last piece is sent by now.
            (state.phase, state.since) = (Phase::Idle, Instant::now());
        }
    }
}

/// A stream that tells the activity what goes through it.
pub struct Watched<S> {
    stream: S,
    activity: Activity,
}

impl<S> Watched<S> {
    pub fn new(stream: S, activity: Activity) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.received();
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once it has written all it has.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(outcome, Poll::Ready(Ok(()))) {
            self.activity.sent();
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
