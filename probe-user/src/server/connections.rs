//! Accepts connections, limits their number and duration, and shuts them down gracefully.

use std::{collections::HashMap, convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, Id, JoinSet},
    time::{sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    config_reload::ActiveConfig,
    connection_timeouts::{ConnectionState, ObservedStream},
    limits::Limits,
    middleware::Gate,
};

/// Back-off when the system has no descriptor left.
const ACCEPT_BACK_OFF: Duration = Duration::from_secs(1);

/// Time limit for responses in flight after the probe is requested to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves until `stop` completes; requests in flight are answered first.
pub async fn serve(
    listener: TcpListener,
    gate: Gate,
    config: watch::Receiver<Arc<ActiveConfig>>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let stopping = watch::Sender::new(false);
    let mut connections = OpenConnections { tasks: JoinSet::new(), open: HashMap::new() };
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.tasks.join_next_with_id() => connections.remove(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if !connections.make_room(limits.connections) {
                        refuse(&stream, &config);
                        continue;
                    }
                    let state = ConnectionState::new(limits);
                    let connection = InboundConnection {
                        gate: gate.clone(),
                        state: state.clone(),
                        config: config.clone(),
                        stopping: stopping.subscribe(),
                        limits,
                    };
                    let task = connections.tasks.spawn(connection.run(stream));
                    connections.open.insert(task.id(), (state, task));
                }
                // The client has already disconnected.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_BACK_OFF).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let all_ended = async { while connections.tasks.join_next().await.is_some() {} };
    if timeout(DRAIN_TIMEOUT, all_ended).await.is_err() {
        debug!("responses in flight were cancelled at shutdown");
    }
}

/// The open connections.
struct OpenConnections {
    tasks: JoinSet<()>,
    open: HashMap<Id, (ConnectionState, AbortHandle)>,
}

impl OpenConnections {
    /// Returns whether there is room for one more connection. If necessary, evicts the longest idle one.
    fn make_room(&mut self, at_most: usize) -> bool {
        if self.open.len() < at_most {
            return true;
        }
        let idle = self.open.iter().filter_map(|(id, (state, _))| Some((state.idle_since()?, *id)));
        let Some((_, oldest)) = idle.min() else { return false };
        if let Some((_, task)) = self.open.remove(&oldest) {
            task.abort();
        }
        true
    }

    fn remove(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    warn!(%error, "a connection task panicked");
                }
                error.id()
            }
        };
        self.open.remove(&id);
    }
}

/// Answers 503 if this requires no handshake.
fn refuse(stream: &TcpStream, config: &watch::Receiver<Arc<ActiveConfig>>) {
    if config.borrow().tls.is_none() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        // The socket has just been accepted, so its buffer has room; otherwise it is closed without an
        // answer.
        let _ = stream.try_write(answer);
    }
}

struct InboundConnection {
    gate: Gate,
    state: ConnectionState,
    config: watch::Receiver<Arc<ActiveConfig>>,
    stopping: watch::Receiver<bool>,
    limits: Limits,
}

impl InboundConnection {
    async fn run(mut self, stream: TcpStream) {
        let _ = stream.set_nodelay(true); // Optional.
        let tls = self.config.borrow_and_update().tls.clone();
        let Some(tls) = tls else {
            self.state.established(true);
            return self.serve(stream, false).await;
        };
        let handshake = tls.accept(stream);
        let stream = tokio::select! {
            stream = handshake => stream,
            () = sleep_until(self.state.deadline()) => return,
            _ = self.stopping.wait_for(|stopping| *stopping) => return,
        };
        // A port scan, or a client that does not trust the server's certificate: the client has received the
        // alert, and its own log reports it.
        let Ok(stream) = stream.inspect_err(|error| debug!(%error, "TLS handshake failed")) else { return };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.state.established(!is_http2);
        self.serve(stream, is_http2).await;
    }

    async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, is_http2: bool) {
        let service = service_fn(|request: Request<Incoming>| {
            let (gate, state) = (self.gate.clone(), self.state.clone());
            async move { Ok::<_, Infallible>(gate.call(request, &state).await) }
        });
        let http = builder(&self.limits, is_http2);
        let stream = TokioIo::new(ObservedStream::new(stream, self.state.clone()));
        let mut connection = pin!(http.serve_connection(stream, service));
        let drain = async {
            tokio::select! {
                _ = self.stopping.wait_for(|stopping| *stopping) => {}
                // Clients that were accepted with the previous configuration have to connect again.
                _ = self.config.changed() => {}
            }
        };
        let mut drain = pin!(drain);
        let mut is_draining = false;
        loop {
            tokio::select! {
                biased; // Received data takes precedence over the deadline.
                _ = connection.as_mut() => return,
                () = expired(&self.state) => return,
                () = &mut drain, if !is_draining => {
                    if self.state.idle_since().is_some() {
                        return;
                    }
                    is_draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Completes when the connection has reached its deadline, which may change at any time.
async fn expired(state: &ConnectionState) {
    let mut deadline = state.deadline();
    let mut timer = pin!(sleep_until(deadline));
    std::future::poll_fn(|context| {
        loop {
            let now = state.deadline();
            if now != deadline {
                deadline = now;
                timer.as_mut().reset(deadline);
            }
            std::task::ready!(timer.as_mut().poll(context));
            if state.deadline() == deadline {
                return std::task::Poll::Ready(());
            }
        }
    })
    .await;
}

fn builder(limits: &Limits, is_http2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None) // `ConnectionState` has finer limits.
        .max_buf_size(limits.head_bytes)
        .max_headers(limits.headers);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(64 << 10)
        .initial_connection_window_size(64 << 10)
        .initial_stream_window_size(64 << 10);
    if is_http2 { builder.http2_only() } else { builder.http1_only() }
}

#[cfg(test)]
mod tests;
