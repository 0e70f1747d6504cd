//! Makes a connection, in etcd's network namespace if need be.
//!
//! Resolving a name, reading certificates and entering a namespace all block, the last for good: a thread that changed
//! its namespace must serve nothing else. So each connection is made on a thread of its own, which then ends.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::sync::oneshot;

use super::credential_files::Fingerprints;
use super::{client_tls::Setup, error::ScrapeError};
use crate::{
    discovery::{Endpoint, FileRef, ProcessId, Scheme},
    system::privileges::NetnsSpawner,
};

/// A connection, and what TLS on it takes.
#[derive(Debug)]
pub(super) struct Connected {
    pub stream: Stream,
    /// With what the files were like just before they were read.
    pub tls: Option<(Setup, Fingerprints)>,
}

/// A stream that does not block.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub(super) type Connecting = oneshot::Receiver<Result<Connected, ScrapeError>>;

/// Starts to connect.
pub(super) fn start(
    endpoint: &Endpoint,
    timeout: Duration,
    entrance: &NetnsSpawner,
) -> Result<Connecting, ScrapeError> {
    let (sender, receiver) = oneshot::channel();
    let endpoint = endpoint.clone();
    // Only what has to enter a namespace gets the right to.
    let direct = NetnsSpawner::default();
    let entrance = if endpoint.network_of.is_some() { entrance } else { &direct };
    let connecting = move || {
        // Nobody waits any more if the client was dropped, and then the connection goes with it.
        let _ = sender.send(connect(&endpoint, timeout));
    };
    entrance.run(connecting).map_err(ScrapeError::Connect)?;
    Ok(receiver)
}

fn connect(endpoint: &Endpoint, timeout: Duration) -> Result<Connected, ScrapeError> {
    let deadline = Instant::now() + timeout;
    let tls = match endpoint.scheme {
        Scheme::Http => None,
        Scheme::Https => {
            // Looked at before they are read: a change in between shows at the next look.
            let fingerprints = Fingerprints::of_credentials(&endpoint.credentials);
            Some((Setup::read(endpoint)?, fingerprints))
        }
    };
    if let Some(socket) = &endpoint.socket {
        let stream = connect_to_socket(socket, timeout).map_err(|error| match error.kind() {
            // etcd makes the file when it listens, and removes it when it ends.
            io::ErrorKind::NotFound => ScrapeError::Refused,
            io::ErrorKind::WouldBlock => ScrapeError::Timeout(timeout),
            _ => ScrapeError::from_connect(error, timeout),
        })?;
        return Ok(Connected { stream: Stream::Unix(stream), tls });
    }
    let addresses = resolve(endpoint)?;
    if let Some(process) = endpoint.network_of {
        enter(process).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ScrapeError::Ended,
            _ => ScrapeError::Namespace(error),
        })?;
    }
    let mut failure = None;
    for address in addresses {
        // A timeout of zero is an error of its own.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nonblocking(true).map_err(ScrapeError::Connect)?;
                return Ok(Connected { stream: Stream::Tcp(stream), tls });
            }
            // Where `localhost` is refused, that there is no IPv6 either is not the news.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let failure = failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(ScrapeError::from_connect(failure, timeout))
}

/// Connects to a socket where etcd sees it, which takes the right to write to it: its owner has it.
///
/// Neither a link of the container's nor the length of the path (108 bytes at most) is in the way, for the address is a
/// descriptor of ours. The limit of time counts while etcd's queue is full.
fn connect_to_socket(file: &FileRef, limit: Duration) -> io::Result<UnixStream> {
    let found = file.open(OFlags::PATH)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    connect_to(&socket, &SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_raw_fd()))?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// `localhost` is etcd's default, and an image without /etc/hosts cannot resolve it.
fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, ScrapeError> {
    let port = endpoint.port;
    if endpoint.host == "localhost" {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        return Ok(loopback.map(|address| SocketAddr::new(address, port)).into());
    }
    if let Ok(address) = endpoint.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    Ok((&*endpoint.host, port).to_socket_addrs().map_err(ScrapeError::Dns)?.collect())
}

pub(super) fn enter(process: ProcessId) -> io::Result<()> {
    let namespace = File::open(process.proc_path("ns/net"))?;
    // If the pid was recycled, it was before we opened its namespace.
    if !process.is_alive() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

#[cfg(test)]
mod tests;
