//! Makes a connection, in etcd's network namespace if need be.
//!
//! Resolving a name, reading certificates and entering a namespace all block, the last for good: a thread that changed
//! its namespace must serve nothing else. So each connection is made on a thread of its own, which then ends.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::ClientConfig;
use std::os::fd::AsFd;
use tokio::sync::oneshot;

use super::{error::ScrapeError, tls};
use crate::{
    members::{Endpoint, ProcessId, Scheme},
    privileges::Entrance,
};

/// A connection, and what TLS on it takes.
#[derive(Debug)]
pub(super) struct Connected {
    pub stream: TcpStream,
    pub tls: Option<Arc<ClientConfig>>,
}

pub(super) type Connecting = oneshot::Receiver<Result<Connected, ScrapeError>>;

/// Starts to connect.
pub(super) fn start(
    endpoint: &Endpoint,
    timeout: Duration,
    entrance: &Entrance,
) -> Result<Connecting, ScrapeError> {
    let (sender, receiver) = oneshot::channel();
    let endpoint = endpoint.clone();
    // Only what has to enter a namespace gets the right to.
    let direct = Entrance::default();
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
        Scheme::Https => Some(Arc::new(tls::client_config(&endpoint.credentials)?)),
    };
    let addresses = resolve(endpoint)?;
    if let Some(process) = endpoint.network_of {
        enter(process).map_err(ScrapeError::Namespace)?;
    }
    let mut failure = None;
    for address in addresses {
        // A timeout of zero is an error of its own.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nonblocking(true).map_err(ScrapeError::Connect)?;
                return Ok(Connected { stream, tls });
            }
            // Where `localhost` is refused, that there is no IPv6 either is not the news.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let failure = failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(match failure.kind() {
        io::ErrorKind::ConnectionRefused => ScrapeError::Refused,
        io::ErrorKind::TimedOut => ScrapeError::Timeout(timeout),
        _ => ScrapeError::Connect(failure),
    })
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
