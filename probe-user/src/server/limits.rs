//! How much of the probe a client may have: docs/web.md has the same table for operators.

use std::time::Duration;

/// What holds for one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. When there are more, the one makes room that has not asked for the longest.
    pub connections: usize,
    /// Answers at once that are being made or sent.
    pub answers: usize,
    /// Requests at once on a connection of HTTP/2.
    pub streams: u32,
    /// Bytes of a request's first line and headers.
    pub head_bytes: usize,
    pub headers: usize,
    /// Bytes of a request's body, which nobody reads.
    pub body_bytes: u64,
    /// How long TLS may take to be agreed on.
    pub handshake: Duration,
    /// How long a request's head may take to arrive, from its first byte.
    pub head: Duration,
    /// From a request's head until its answer has been taken.
    pub request: Duration,
    /// How long a connection may wait for the next request. Prometheus asks every minute at least, by default.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            answers: 16,
            streams: 8,
            head_bytes: 16 << 10,
            headers: 64,
            body_bytes: 4 << 10,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(5),
            request: Duration::from_secs(15),
            idle: Duration::from_mins(3),
        }
    }
}
