//! Limits for clients. docs/web.md has the same table for operators.

use std::time::Duration;

/// The limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Concurrent connections. Beyond the limit, the longest idle one is evicted.
    pub connections: usize,
    /// Requests being answered concurrently, until the answer is sent.
    pub answers: usize,
    /// Concurrent requests on an HTTP/2 connection.
    pub streams: u32,
    /// Bytes of a request's first line and headers.
    pub head_bytes: usize,
    pub headers: usize,
    /// Bytes of a request's body, which is discarded.
    pub body_bytes: u64,
    /// Duration of a TLS handshake.
    pub handshake: Duration,
    /// Time to receive a request's head, from its first byte.
    pub head: Duration,
    /// Time from a request's head until its answer is sent.
    pub request: Duration,
    /// Idle time of a connection. Prometheus scrapes once a minute by default.
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
