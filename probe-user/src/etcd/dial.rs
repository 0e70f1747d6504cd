//! Establishes a connection, in etcd's network namespace if necessary.
//!
//! Name resolution, reading certificates and entering a namespace all block. The last one is permanent: a
//! thread that has changed its namespace must do nothing else. Each connection is therefore established on a
//! separate thread, which then ends.

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
use super::{client_tls::TlsSetup, error::ScrapeError};
use crate::{
    discovery::{Endpoint, FileRef, ProcessId, Scheme},
    system::netns_spawner::NetnsSpawner,
};

/// A connection and its TLS configuration.
#[derive(Debug)]
pub(super) struct Connected {
    pub stream: Stream,
    /// With the fingerprints of the files just before they were read.
    pub tls: Option<(TlsSetup, Fingerprints)>,
}

/// A non-blocking stream.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub(super) type Connecting = oneshot::Receiver<Result<Connected, ScrapeError>>;

/// Starts to connect on a separate thread.
pub(super) fn start(
    endpoint: &Endpoint,
    timeout: Duration,
    spawner: &NetnsSpawner,
) -> Result<Connecting, ScrapeError> {
    let (sender, receiver) = oneshot::channel();
    let endpoint = endpoint.clone();
    // Only a thread that must enter a namespace gets the privilege for it.
    let direct = NetnsSpawner::default();
    let spawner = if endpoint.network_of.is_some() { spawner } else { &direct };
    let connecting = move || {
        // The receiver is gone if the client was dropped; the connection is then closed.
        let _ = sender.send(connect(&endpoint, timeout));
    };
    spawner.run(connecting).map_err(ScrapeError::Connect)?;
    Ok(receiver)
}

fn connect(endpoint: &Endpoint, timeout: Duration) -> Result<Connected, ScrapeError> {
    let deadline = Instant::now() + timeout;
    let tls = match endpoint.scheme {
        Scheme::Http => None,
        Scheme::Https => {
            // Fingerprints first, then the content: a change in between is detected by the next comparison.
            let fingerprints = Fingerprints::of_credentials(&endpoint.credentials);
            Some((TlsSetup::read(endpoint)?, fingerprints))
        }
    };
    if let Some(socket) = &endpoint.socket {
        let stream = connect_to_socket(socket, timeout).map_err(|error| match error.kind() {
            // etcd creates the file when it starts to listen, and removes it when it exits.
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
        // `connect_timeout` rejects a timeout of zero.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nonblocking(true).map_err(ScrapeError::Connect)?;
                return Ok(Connected { stream: Stream::Tcp(stream), tls });
            }
            // For `localhost`, the refusal over IPv4 is the cause; a missing IPv6 is not.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let failure = failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(ScrapeError::from_connect(failure, timeout))
}

/// Connects to a Unix socket in etcd's own file system, which requires write permission on it: its owner has
/// it.
///
/// The address is `/proc/self/fd/N`, so symbolic links of the container and the limit of 108 bytes for the
/// path do not matter. The time limit applies while etcd's backlog is full.
fn connect_to_socket(file: &FileRef, limit: Duration) -> io::Result<UnixStream> {
    let found = file.open(OFlags::PATH)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    connect_to(&socket, &SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_raw_fd()))?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Returns the addresses of an endpoint. `localhost` is etcd's default and is not resolved, because an image
/// without /etc/hosts cannot resolve it.
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
    // If the pid was reused, this happened before its namespace was opened.
    if !process.is_alive() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}
