use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, routing::get};
use http_body_util::{BodyExt, Empty};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::oneshot,
};

use super::*;
use crate::server::{config_reload::ConfigReloader, redaction::Redactor};

/// More than the kernel buffers on both sides for a client that does not read.
const LARGE: usize = 32 << 20;

const SOON: Duration = Duration::from_millis(200);

/// Limits that a test does not reach unless it changes them.
fn limits() -> Limits {
    let far = Duration::from_mins(1);
    Limits { handshake: far, head: far, request: far, idle: far, ..Limits::default() }
}

struct TestServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

fn routes() -> Router {
    Router::new()
        .route("/", get(|| async { "small" }))
        .route("/large", get(|| async { "x".repeat(LARGE) }))
        .route("/slow", get(|| async { tokio::time::sleep(SOON).await }))
        .route("/key", get(|| async { "it is /pki/a.key" }))
}

fn gate_of(reloader: &ConfigReloader, limits: Limits) -> Gate {
    let redactor = Redactor::new(|| BTreeSet::from(["/pki/a.key".to_owned()]));
    Gate::new(routes(), reloader.subscribe(), redactor, limits)
}

async fn serving(limits: Limits) -> TestServer {
    serving_with(limits, ConfigReloader::load(None).expect("there is no file")).await
}

async fn serving_with(limits: Limits, reloader: ConfigReloader) -> TestServer {
    let gate = gate_of(&reloader, limits);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let active = reloader.subscribe();
        serve(listener, gate, active, limits, async { drop(stopped.await) }).await;
    });
    TestServer { address, stop: Some(stop), task }
}

impl TestServer {
    async fn connect(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        // Otherwise the kernel buffers up to 32 MiB for a client that does not read.
        socket.set_recv_buffer_size(64 << 10).expect("a smaller buffer is always allowed");
        socket.connect(self.address).await.expect("it listens")
    }

    /// Sends a request and returns everything until the server closes the connection.
    async fn send(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.expect("there is room for a request");
        rest(&mut stream).await
    }
}

/// Returns everything until the end of the stream, or until a reset.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await; // A reset is an end, too.
    String::from_utf8_lossy(&answer).into_owned()
}

fn get_of(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn requests_beyond_the_limits_are_rejected() {
    let served = serving(limits()).await;
    let many = "x: y\r\n".repeat(100);
    let cases = [
        (get_of("/"), "HTTP/1.1 200", "small", "a request"),
        (get_of("/key"), "HTTP/1.1 200", "it is (path redacted)", "the path of a key"),
        (get_of("/").replace("GET", "HEAD"), "HTTP/1.1 200", "content-length: 5", "only the head"),
        (get_of("/nowhere"), "HTTP/1.1 404", "", "no route"),
        (get_of("/").replace("GET", "POST"), "HTTP/1.1 405", "allow: GET,HEAD", "another method"),
        (get_of("/").replace("GET", "BREW"), "HTTP/1.1 405", "", "an unknown method"),
        (get_of(&format!("/{}", "x".repeat(20_000))), "HTTP/1.1 431", "", "a long path"),
        (
            get_of("/").replace("host", &format!("x: {}\r\nhost", "y".repeat(20_000))),
            "HTTP/1.1 431",
            "",
            "a long header",
        ),
        (get_of("/").replace("host", &format!("{many}host")), "HTTP/1.1 431", "", "many headers"),
        (
            get_of("/").replace("host", "content-length: 4096\r\nhost") + &"x".repeat(4096),
            "HTTP/1.1 200",
            "",
            "a small body",
        ),
        (get_of("/").replace("host", "content-length: 4097\r\nhost"), "HTTP/1.1 413", "", "a body"),
        (
            get_of("/").replace("host", "transfer-encoding: chunked\r\nhost"),
            "HTTP/1.1 413",
            "",
            "a body of unknown length",
        ),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "HTTP/1.1 400", "", "not HTTP"),
        ("\u{16}\u{3}\u{1}\u{2}\0".repeat(5), "HTTP/1.1 400", "", "TLS on a plain port"),
    ];
    for (request, status, part, why) in cases {
        let answer = served.send(&request).await;
        assert!(answer.starts_with(status), "{why}: {answer:?}");
        assert!(answer.contains(part), "{why}: {answer:?}");
    }
}

#[tokio::test]
async fn slow_clients_are_disconnected() {
    let short = |change: fn(&mut Limits)| {
        let mut limits = limits();
        change(&mut limits);
        limits
    };
    let cases = [
        (short(|limits| limits.head = SOON), "GET / HTTP/1.1\r\nx: ", "a slow head"),
        (
            short(|limits| limits.request = SOON),
            "GET /large HTTP/1.1\r\nhost: x\r\n\r\n",
            "an answer that is not read",
        ),
        (short(|limits| limits.idle = SOON), "GET / HTTP/1.1\r\nhost: x\r\n\r\n", "no further request"),
        (short(|limits| limits.idle = SOON), "", "no request at all"),
    ];
    for (limits, request, why) in cases {
        let served = serving(limits).await;
        let mut stream = served.connect().await;
        stream.write_all(request.as_bytes()).await.expect("there is room");
        let started = Instant::now();
        // The slow head continues until a write fails; the others send nothing.
        while request.ends_with(": ") && started.elapsed() < SOON * 10 {
            tokio::time::sleep(SOON / 20).await;
            if stream.write_all(b"y").await.is_err() {
                break;
            }
        }
        if request.ends_with(": ") {
            assert!(started.elapsed() < SOON * 4, "{why}: after {:?}", started.elapsed());
        } else {
            // The client does not read meanwhile.
            tokio::time::sleep(SOON * 3).await;
        }
        let answer = tokio::time::timeout(SOON * 3, rest(&mut stream)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{why}: still open"));
        assert!(answer.len() < LARGE, "{why}: served completely");
        assert!(!request.ends_with(": ") || answer.is_empty(), "{why}: {answer}");
    }
}

#[tokio::test]
async fn an_idle_connection_stays_open() {
    let served = serving(Limits { head: SOON, request: SOON * 2, ..limits() }).await;
    let mut stream = served.connect().await;
    for round in 0..3 {
        tokio::time::sleep(SOON * 2).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it is open");
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await.expect("it is open");
        assert!(answer[..length].ends_with(b"small"), "round {round}: {:?}", &answer[..length]);
    }
}

#[tokio::test]
async fn idle_connections_are_evicted_and_busy_ones_are_not() {
    let served = serving(Limits { connections: 8, ..limits() }).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(served.connect().await);
    }
    assert!(served.send(&get_of("/")).await.ends_with("small"), "idle ones are evicted");
    assert!(rest(&mut idle[0]).await.is_empty(), "the oldest is closed");

    let mut busy = Vec::new();
    for _ in 0..8 {
        let mut stream = served.connect().await;
        stream.write_all(get_of("/large").as_bytes()).await.expect("there is room");
        assert!(stream.read(&mut [0; 16]).await.expect("it is answered") > 0);
        busy.push(stream);
    }
    assert!(served.send(&get_of("/")).await.starts_with("HTTP/1.1 503"), "busy ones are not evicted");
    drop(busy);
    tokio::time::sleep(SOON).await;
    assert!(served.send(&get_of("/")).await.ends_with("small"), "they are closed");
}

#[tokio::test]
async fn concurrent_answers_are_limited() {
    let served = serving(Limits { answers: 2, request: SOON * 40, ..limits() }).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = served.connect().await;
        stream.write_all(get_of("/large").as_bytes()).await.expect("there is room");
        assert!(stream.read(&mut [0; 16]).await.expect("it is answered") > 0);
        slow.push(stream);
    }
    let answer = served.send(&get_of("/")).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    tokio::time::sleep(SOON * 41).await;
    assert!(
        served.send(&get_of("/")).await.ends_with("small"),
        "slow readers are disconnected, which frees permits"
    );
}

#[tokio::test]
async fn requests_before_the_shutdown_are_answered() {
    let mut served = serving(limits()).await;
    let _silent = served.connect().await;
    let mut busy = served.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("there is room");
    tokio::time::sleep(SOON / 4).await;
    let started = Instant::now();
    served.stop.take().expect("it is stopped once").send(()).expect("it runs");
    assert!(rest(&mut busy).await.starts_with("HTTP/1.1 200"));
    served.task.await.expect("it does not panic");
    assert!(started.elapsed() < SOON * 3, "after {:?}", started.elapsed());
    assert!(TcpStream::connect(served.address).await.is_err(), "the socket is closed");
}

#[tokio::test]
async fn the_web_configuration_applies_to_every_request() {
    let directory = std::env::temp_dir().join(format!("probe-web-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("there is room for a directory");
    let file = directory.join("web.yml");
    let text =
        "http_server_config: {headers: {X-Frame-Options: deny}}\nrate_limit: {interval: 1h, burst: 2}\n";
    std::fs::write(&file, text).expect("there is room for a file");
    let reloader = ConfigReloader::load(Some(&file)).expect("it is valid");
    std::fs::remove_dir_all(&directory).expect("it is ours");
    let served = serving_with(limits(), reloader).await;
    for (status, why) in [("200", "the first"), ("404", "the second"), ("429", "beyond the burst")] {
        let answer = served.send(&get_of(if status == "404" { "/nowhere" } else { "/" })).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{why}: {answer}");
        assert!(answer.contains("x-frame-options: deny"), "{why}: {answer}");
    }
}

/// Serves one connection as if HTTP/2 had been negotiated, and returns its client.
async fn http2(limits: Limits) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let reloader = ConfigReloader::load(None).expect("there is no file");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let client = TcpStream::connect(address).await.expect("it listens");
    let (stream, _) = listener.accept().await.expect("there is a client");
    let stopping = watch::Sender::new(false);
    let connection = InboundConnection {
        gate: gate_of(&reloader, limits),
        state: ConnectionState::new(limits),
        config: reloader.subscribe(),
        stopping: stopping.subscribe(),
        limits,
    };
    connection.state.established(false);
    tokio::spawn(async move {
        let _kept = (reloader, stopping); // Dropping either would start the shutdown.
        connection.serve(stream, true).await;
    });
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client));
    let (sender, driver) = handshake.await.expect("the server speaks HTTP/2");
    tokio::spawn(driver);
    sender
}

fn request(method: &str, path: &str) -> Request<Empty<Bytes>> {
    let request = Request::builder().method(method).uri(format!("http://probe{path}"));
    request.body(Empty::new()).expect("it is a request")
}

#[tokio::test]
async fn http2_has_the_same_answers_and_limits() {
    let mut sender = http2(Limits { request: SOON * 10, idle: SOON * 5, ..limits() }).await;
    let cases =
        [("GET", "/", 200, "small"), ("GET", "/key", 200, "it is (path redacted)"), ("POST", "/", 405, "")];
    for (method, path, status, body) in cases {
        let answer = sender.send_request(request(method, path)).await.expect("it is open");
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(
            answer.into_body().collect().await.expect("it is whole").to_bytes(),
            body,
            "{method} {path}"
        );
    }
    // Twice as many as the limit of concurrent requests: the rest waits, and all are answered.
    let many = (0..16).map(|_| sender.send_request(request("GET", "/slow")));
    for answer in many.collect::<Vec<_>>() {
        assert_eq!(answer.await.expect("it is open").status(), 200);
    }
    tokio::time::sleep(SOON * 8).await;
    assert!(sender.send_request(request("GET", "/")).await.is_err(), "it was idle for too long");

    let mut sender = http2(Limits { request: SOON, ..limits() }).await;
    let slow = sender.send_request(request("GET", "/large")).await.expect("it is open");
    tokio::time::sleep(SOON * 3).await;
    assert!(slow.into_body().collect().await.is_err(), "an answer that is not read is cancelled");
}
