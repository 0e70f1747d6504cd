//! Makes a connection, in etcd's network namespace if need be.
//!
//! Resolving a name, reading certificates and entering a namespace all block, the last for good: a thread that changed
//! its namespace must serve nothing else. So each connection is made on a thread of its own, which then ends.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use tokio::sync::oneshot;

use super::{error::ScrapeError, stamps::Stamps, tls::Setup};
use crate::{
    members::{Endpoint, ProcessId, Scheme},
    privileges::Entrance,
};

/// A connection, and what TLS on it takes.
#[derive(Debug)]
pub(super) struct Connected {
    pub stream: TcpStream,
    /// With what the files were like just before they were read.
    pub tls: Option<(Setup, Stamps)>,
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
        Scheme::Https => {
            // Looked at before they are read: a change in between shows at the next look.
            let stamps = Stamps::of_credentials(&endpoint.credentials);
            Some((Setup::read(endpoint)?, stamps))
        }
    };
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
                return Ok(Connected { stream, tls });
            }
            // Where `localhost` is refused, that there is no IPv6 either is not the news.
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let failure = failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(ScrapeError::from_connect(failure, timeout))
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
