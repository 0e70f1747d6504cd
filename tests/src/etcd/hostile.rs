//! A hostile etcd: it fetches the answer of a real etcd and malforms it in one of many ways.

mod malformed;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;

use crate::machine::cancel::{Cancel, POLL};
use crate::machine::http::Endpoint;

pub use malformed::Malformed;

/// How long the server waits for a client that sends or reads nothing.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Orders {
    /// The etcd that it answers for, if any yet.
    real: Mutex<Option<Endpoint>>,
    answer: Mutex<Malformed>,
    /// The gzip bomb, compressed once.
    bomb: Vec<u8>,
    /// The number of requests so far.
    requests: AtomicU64,
    stop: Cancel,
}

/// A hostile server on a free port. Stopped on drop.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot find a free port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let orders = Arc::new(Orders { bomb: malformed::bomb()?, ..Orders::default() });
        let shared = orders.clone();
        let thread = thread::spawn(move || {
            while !shared.stop.is_cancelled() {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let shared = shared.clone();
                        // The client closes the connection when its limit is reached, which is no error.
                        thread::spawn(move || _ = serve(&stream, &shared));
                    }
                    Err(_) => thread::sleep(POLL),
                }
            }
        });
        Ok(Self { address, orders, thread: Some(thread) })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers for this etcd from now on.
    pub fn answer_for(&self, etcd: Endpoint) {
        *self.orders.real.lock().unwrap_or_else(PoisonError::into_inner) = Some(etcd);
    }

    /// Returns the number of requests so far.
    pub fn requests(&self) -> u64 {
        self.orders.requests.load(Ordering::Relaxed)
    }

    /// Malforms answers in this way from now on.
    pub fn answer_with(&self, answer: Malformed) {
        *self.orders.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.orders.stop.cancel();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the hostile server at {} panicked", self.address);
        }
    }
}

fn serve(mut stream: &TcpStream, orders: &Orders) -> anyhow::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut part = [0; 1024];
        match stream.read(&mut part)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&part[..length]),
        }
    }
    orders.requests.fetch_add(1, Ordering::Relaxed);
    let real = orders.real.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let answer = *orders.answer.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(real) = real else {
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")?;
        return Ok(());
    };
    let text = real.get("/metrics")?.text()?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\n")?;
    answer.write(&text, &orders.bomb, &orders.stop, &mut stream)?;
    Ok(())
}
