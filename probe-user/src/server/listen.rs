//! The listening socket.

use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Error of listening, with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; is another probe running? choose another address with --listen")]
pub struct ListenError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds the address on which the daemon serves.
///
/// # Errors
/// If the address is in use, or does not belong to this host.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}
