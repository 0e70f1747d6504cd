//! A fake etcd: it gives the same bad answer to every request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};

use crate::machine::cancel::{Cancel, POLL};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n";

/// How long the server waits for a client that sends or reads nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer to every request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Endless metrics, as fast as the client reads.
    Endless,
    /// Endless metrics, one byte at a time.
    Dripping,
    /// No answer; the connection stays open.
    Nothing,
    /// A 200 with this body.
    Page(&'static str),
    /// This status line, such as `404 Not Found`, and no body.
    Status(&'static str),
    /// These bytes; then the server closes the connection.
    Raw(&'static [u8]),
    /// Part of an answer, then a reset.
    Reset,
    /// Endless headers.
    EndlessHead,
    /// An endless body that inflates to a thousand times its compressed size.
    Bomb,
}

/// A server on a free port. Stopped on drop, including its connections.
#[derive(Debug)]
pub struct FakeEtcd {
    address: SocketAddr,
    stop: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl FakeEtcd {
    pub fn start(answer: Answer) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot find a free port")?;
        listener.set_nonblocking(true)?;
        let (address, stop) = (listener.local_addr()?, Cancel::default());
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.is_cancelled() {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let stopped = stopped.clone();
                        // The client closes the connection when its limit is reached, which is no error.
                        thread::spawn(move || _ = serve(&stream, answer, &stopped));
                    }
                    Err(_) => thread::sleep(POLL),
                }
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for FakeEtcd {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the server at {} panicked", self.address);
        }
    }
}

fn serve(mut stream: &TcpStream, answer: Answer, stop: &Cancel) -> std::io::Result<()> {
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
    match answer {
        Answer::Endless => {
            stream.write_all(format!("{OK}\r\n").as_bytes())?;
            let lines = "some_metric 1\n".repeat(4096);
            while !stop.is_cancelled() {
                stream.write_all(lines.as_bytes())?;
            }
        }
        Answer::Dripping => {
            stream.write_all(format!("{OK}\r\n").as_bytes())?;
            while !stop.is_cancelled() {
                stream.write_all(b"#")?;
                thread::sleep(POLL);
            }
        }
        Answer::Nothing => {
            // Returns when the client closes the connection.
            stream.read_to_end(&mut Vec::new())?;
        }
        Answer::Page(body) => {
            stream.write_all(format!("{OK}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        }
        Answer::Raw(bytes) => stream.write_all(bytes)?,
        Answer::Reset => {
            stream.write_all(format!("{OK}content-length: 1000\r\n\r\n# HELP").as_bytes())?;
            // The client must read this much before the reset discards it.
            thread::sleep(10 * POLL);
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
        }
        Answer::EndlessHead => {
            stream.write_all(OK.as_bytes())?;
            while !stop.is_cancelled() {
                stream.write_all(&[b"x-more: ", &[b'x'; 1000][..], b"\r\n"].concat())?;
            }
        }
        Answer::Bomb => {
            stream.write_all(format!("{OK}content-encoding: gzip\r\n\r\n").as_bytes())?;
            let mut encoder = GzEncoder::new(stream, Compression::best());
            while !stop.is_cancelled() {
                encoder.write_all(&[b'#'; 1 << 13])?;
            }
        }
        Answer::Status(status) => {
            stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::http::Endpoint;

    #[test]
    fn answers_are_as_bad_as_asked_for() {
        let cases = [
            (Answer::Page("hello"), Some((200, "hello")), "a page"),
            (Answer::Status("404 Not Found"), Some((404, "")), "a status"),
            (Answer::Raw(b"HTTP/1.1 200 OK\r\n\r\nraw"), Some((200, "raw")), "raw bytes"),
            (Answer::Endless, None, "more than a client takes"),
            (Answer::EndlessHead, None, "a head without end"),
            (Answer::Reset, None, "a part of an answer"),
        ];
        for (answer, expected, why) in cases {
            let server = FakeEtcd::start(answer).unwrap();
            let got = Endpoint::plain(server.address()).get("/metrics").ok();
            let got =
                got.map(|response| (response.status, String::from_utf8_lossy(&response.body).into_owned()));
            let got = got.as_ref().map(|(status, body)| (*status, body.as_str()));
            assert_eq!(got, expected, "{why}");
        }
    }
}
