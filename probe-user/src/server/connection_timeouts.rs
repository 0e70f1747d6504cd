//! Phases of a connection and their deadlines.
//!
//! hyper has a single limit, for the time that a request's head takes, which also runs while a connection is
//! idle. Here idle time, receiving a request and sending its response have separate limits.

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

/// State of one connection. Shared by its stream, its requests and the task that enforces the deadline.
#[derive(Clone)]
pub struct ConnectionState {
    progress: Arc<Mutex<Progress>>,
    limits: Limits,
}

struct Progress {
    phase: Phase,
    /// Start of the phase.
    since: Instant,
    /// Whether requests are sequential, as in HTTP/1.
    is_sequential: bool,
    next: u64,
    /// Requests in flight, by number, with their start; the first is the oldest.
    open: BTreeMap<u64, Instant>,
    /// The response that is complete but not sent, with its permit; for sequential requests only.
    unsent: Option<(Instant, Option<OwnedSemaphorePermit>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshake,
    Idle,
    /// A request has begun to arrive.
    Head,
}

impl ConnectionState {
    pub fn new(limits: Limits) -> Self {
        let progress = Progress {
            phase: Phase::Handshake,
            since: Instant::now(),
            is_sequential: true,
            next: 0,
            open: BTreeMap::new(),
            unsent: None,
        };
        Self { progress: Arc::new(Mutex::new(progress)), limits }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the end of the handshake. Requests are sequential or concurrent.
    pub fn established(&self, is_sequential: bool) {
        let mut progress = self.progress();
        (progress.phase, progress.since, progress.is_sequential) =
            (Phase::Idle, Instant::now(), is_sequential);
    }

    /// Records a request, which is in flight until the guard is dropped.
    pub fn begin(&self) -> RequestGuard {
        let mut progress = self.progress();
        let number = progress.next;
        progress.next += 1;
        progress.open.insert(number, Instant::now());
        RequestGuard { connection: self.clone(), number, permit: None }
    }

    /// Returns the deadline of the current phase or request.
    pub fn deadline(&self) -> Instant {
        let progress = self.progress();
        let oldest = progress.open.values().next().copied();
        let oldest = progress.unsent.as_ref().map(|(begun, _)| *begun).or(oldest);
        oldest.map_or_else(
            || {
                progress.since
                    + match progress.phase {
                        Phase::Handshake => self.limits.handshake,
                        Phase::Idle => self.limits.idle,
                        Phase::Head => self.limits.head,
                    }
            },
            |begun| begun + self.limits.request,
        )
    }

    /// Returns the start of the phase if no request is in flight: such a connection may be evicted.
    pub fn idle_since(&self) -> Option<Instant> {
        let progress = self.progress();
        (progress.open.is_empty() && progress.unsent.is_none()).then_some(progress.since)
    }

    fn received(&self) {
        let mut progress = self.progress();
        if progress.is_sequential
            && progress.phase == Phase::Idle
            && progress.open.is_empty()
            && progress.unsent.is_none()
        {
            (progress.phase, progress.since) = (Phase::Head, Instant::now());
        }
    }

    fn sent(&self) {
        let mut progress = self.progress();
        if progress.open.is_empty() && progress.unsent.take().is_some() {
            (progress.phase, progress.since) = (Phase::Idle, Instant::now());
        }
    }
}

/// A request in flight; owned by the body of its response.
pub struct RequestGuard {
    connection: ConnectionState,
    number: u64,
    permit: Option<OwnedSemaphorePermit>,
}

impl RequestGuard {
    /// Keeps the permit until the response is sent.
    pub fn attach_permit(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let mut progress = self.connection.progress();
        let Some(begun) = progress.open.remove(&self.number) else { return };
        if progress.is_sequential {
            progress.unsent = Some((begun, self.permit.take()));
        } else if progress.open.is_empty() {
            // Concurrent responses are passed to hyper in pieces as the client reads them, so the last piece
            // has been sent by now.
            (progress.phase, progress.since) = (Phase::Idle, Instant::now());
        }
    }
}

/// A stream that records its traffic in the state of the connection.
pub struct ObservedStream<S> {
    stream: S,
    connection: ConnectionState,
}

impl<S> ObservedStream<S> {
    pub fn new(stream: S, connection: ConnectionState) -> Self {
        Self { stream, connection }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.connection.received();
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ObservedStream<S> {
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

    /// hyper flushes after it has written all of its data.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(outcome, Poll::Ready(Ok(()))) {
            self.connection.sent();
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
