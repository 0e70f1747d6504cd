//! Accepts connections, bounds how many there are and how long each may take, and ends them in order.

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
    config_reload::InForce,
    connection_timeouts::{Activity, Watched},
    limits::Limits,
    middleware::Door,
};

/// How long to wait when the system has no descriptor left.
const PAUSE: Duration = Duration::from_secs(1);

/// How long answers under way may take once the probe is told to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Serves until `stop` ends; requests under way are answered first.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    web: watch::Receiver<Arc<InForce>>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let stopping = watch::Sender::new(false);
    let mut connections = Connections { tasks: JoinSet::new(), open: HashMap::new() };
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.tasks.join_next_with_id() => connections.forget(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if !connections.make_room(limits.connections) {
                        refuse(&stream, &web);
                        continue;
                    }
                    let activity = Activity::new(limits);
                    let connection = Connection {
                        door: door.clone(),
                        activity: activity.clone(),
                        web: web.clone(),
                        stopping: stopping.subscribe(),
                        limits,
                    };
                    let task = connections.tasks.spawn(connection.run(stream));
                    connections.open.insert(task.id(), (activity, task));
                }
                // The client is gone already.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let all_ended = async { while connections.tasks.join_next().await.is_some() {} };
    if timeout(LAST_ANSWERS, all_ended).await.is_err() {
        debug!("answers under way were broken off");
    }
}

/// Those that are open.
struct Connections {
    tasks: JoinSet<()>,
    open: HashMap<Id, (Activity, AbortHandle)>,
}

impl Connections {
    /// Returns whether there is room for one more, for which the one that has not asked for the longest may have to go.
    fn make_room(&mut self, at_most: usize) -> bool {
        if self.open.len() < at_most {
            return true;
        }
        let idle = self.open.iter().filter_map(|(id, (activity, _))| Some((activity.idle_since()?, *id)));
        let Some((_, oldest)) = idle.min() else { return false };
        if let Some((_, task)) = self.open.remove(&oldest) {
            task.abort();
        }
        true
    }

    fn forget(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    warn!(%error, "a connection broke off");
                }
                error.id()
            }
        };
        self.open.remove(&id);
    }
}

/// Says that there is no room, where that takes no handshake.
fn refuse(stream: &TcpStream, web: &watch::Receiver<Arc<InForce>>) {
    if web.borrow().tls.is_none() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        // It has just been accepted, so there is room for a line; and if not, it is closed all the same.
        let _ = stream.try_write(answer);
    }
}

struct Connection {
    door: Door,
    activity: Activity,
    web: watch::Receiver<Arc<InForce>>,
    stopping: watch::Receiver<bool>,
    limits: Limits,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) {
        let _ = stream.set_nodelay(true); // It works without, too.
        let tls = self.web.borrow_and_update().tls.clone();
        let Some(tls) = tls else {
            self.activity.established(true);
            return self.serve(stream, false).await;
        };
        let handshake = tls.accept(stream);
        let stream = tokio::select! {
            stream = handshake => stream,
            () = sleep_until(self.activity.deadline()) => return,
            _ = self.stopping.wait_for(|stopping| *stopping) => return,
        };
        // A port scan, or a client that does not trust us: the client has been told, and its own log is the place.
        let Ok(stream) = stream.inspect_err(|error| debug!(%error, "cannot agree on TLS")) else { return };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.activity.established(!is_http2);
        self.serve(stream, is_http2).await;
    }

    async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, is_http2: bool) {
        let answer = service_fn(|request: Request<Incoming>| {
            let (door, activity) = (self.door.clone(), self.activity.clone());
            async move { Ok::<_, Infallible>(door.answer(request, &activity).await) }
        });
        let http = builder(&self.limits, is_http2);
        let stream = TokioIo::new(Watched::new(stream, self.activity.clone()));
        let mut connection = pin!(http.serve_connection(stream, answer));
        let over = async {
            tokio::select! {
                _ = self.stopping.wait_for(|stopping| *stopping) => {}
                // Whoever was let in by another certificate, or without one, has to come in again.
                _ = self.web.changed() => {}
            }
        };
        let mut over = pin!(over);
        let mut is_over = false;
        loop {
            tokio::select! {
                biased; // What has arrived counts before the time that it took.
                _ = connection.as_mut() => return,
                () = expired(&self.activity) => return,
                () = &mut over, if !is_over => {
                    if self.activity.idle_since().is_some() {
                        return;
                    }
                    is_over = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Ends when the connection has taken too long for what it is at, which may change at any time.
async fn expired(activity: &Activity) {
    let mut deadline = activity.deadline();
    let mut timer = pin!(sleep_until(deadline));
    std::future::poll_fn(|context| {
        loop {
            let now = activity.deadline();
            if now != deadline {
                deadline = now;
                timer.as_mut().reset(deadline);
            }
            std::task::ready!(timer.as_mut().poll(context));
            if activity.deadline() == deadline {
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
        .header_read_timeout(None) // `Activity` has finer ones.
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
