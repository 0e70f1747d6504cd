//! Errors of scrapes: a sentence for the operator, a reason for the counter.

mod classify;

use std::{error::Error, fmt, io, path::PathBuf};

use rustls::Error as TlsError;

pub(super) use classify::{ClientAuth, ConnectionStage};

use crate::{analysis::scrape_failure::Reason, support::logging};

/// A failed scrape and its endpoint.
#[derive(Debug)]
pub struct ScrapeFailure {
    /// The endpoint that was tried first; none if the member has no endpoint.
    pub endpoint: Option<String>,
    pub error: ScrapeError,
}

/// Why a scrape failed.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    #[error("cannot connect to etcd: the connection was refused; is the address right? see --endpoints")]
    Refused,
    #[error("cannot connect to etcd: its address is not reachable from here; see --endpoints")]
    Unreachable(#[source] io::Error),
    #[error("cannot connect to etcd: its process has ended")]
    Ended,
    #[error(
        "cannot get etcd's metrics: the server closed the connection without an answer; a TLS port does \
         so, try https://"
    )]
    ClosedWithoutAnswer(#[source] BoxedError),
    #[error(
        "cannot establish TLS with etcd: the server closed the connection; a plain HTTP port does so, \
         try http://"
    )]
    ClosedInHandshake(#[source] BoxedError),
    #[error("cannot get etcd's metrics in time: no answer within {0:?}; see --command-timeout")]
    Timeout(std::time::Duration),
    #[error("cannot get etcd's metrics in time: the TCP connection timed out")]
    NetworkTimeout(#[source] BoxedError),
    #[error("cannot resolve the name of etcd's endpoint; see --endpoints")]
    Dns(#[source] io::Error),
    #[error("cannot connect to etcd")]
    Connect(#[source] io::Error),
    #[error("cannot enter etcd's network namespace; this needs CAP_SYS_ADMIN and CAP_SYS_PTRACE")]
    Namespace(#[source] io::Error),
    #[error("cannot verify etcd's certificate: no trusted authority has signed it; see --cacert")]
    Untrusted(#[source] TlsError),
    #[error("cannot verify etcd's certificate: it was not issued for servers (extended key usage); renew it")]
    WrongUsage(#[source] TlsError),
    #[error(
        "cannot verify etcd's certificate: it is not valid for the host of the endpoint; give an address \
         that it contains with --endpoints, or a name that it contains with --tls-server-name"
    )]
    WrongName(#[source] TlsError),
    #[error("cannot verify etcd's certificate: it has expired, or is not valid yet")]
    Expired(#[source] TlsError),
    #[error(
        "cannot authenticate to etcd: it rejected the client certificate{}; see --cert and --key",
        quoted(.0.as_ref())
    )]
    ClientRejected(Option<PathBuf>, #[source] BoxedError),
    #[error(
        "cannot authenticate to etcd: it requires a client certificate, and the probe has none to \
         present; see --cert and --key"
    )]
    ClientMissing(#[source] BoxedError),
    #[error("cannot establish TLS with etcd: the server does not speak TLS; is the endpoint http://?")]
    NotTls(#[source] TlsError),
    #[error(
        "cannot establish TLS with etcd: it has no usable certificate; do its --cert-file and \
         --key-file match?"
    )]
    ServerUnready(#[source] TlsError),
    #[error("cannot establish TLS with etcd: no common TLS version or cipher suite; see its --cipher-suites")]
    Tls(#[source] TlsError),
    #[error("cannot get etcd's metrics: it answered with HTTP status {0}{hint}", hint = hint(*.0))]
    Status(u16),
    #[error("cannot read etcd's metrics: the answer is larger than {0} bytes; is this etcd? see --endpoints")]
    TooLarge(usize),
    #[error("cannot get etcd's metrics: the connection failed")]
    Broken(#[source] BoxedError),
    #[error("cannot read etcd's metrics: the answer is truncated")]
    Truncated(#[source] BoxedError),
    #[error("cannot read etcd's metrics: the answer is not HTTP/1.1; see --endpoints")]
    NotHttp(#[source] BoxedError),
    #[error("cannot read etcd's metrics: {0}; see --endpoints")]
    NotMetrics(String),
    #[error("cannot accept the answer as etcd's metrics: {0}; see --endpoints")]
    NotEtcd(String),
    #[error("cannot use {what} `{}`", path.display())]
    Credentials { what: &'static str, path: PathBuf, source: BoxedError },
    #[error("cannot verify etcd's certificate: there is no trusted authority; see --cacert")]
    NoAuthority,
    #[error("cannot find an endpoint of etcd; see --endpoints")]
    NoEndpoint,
}

/// Limit of a response's head; etcd's has about 200 bytes. It is also the size of the read buffer, which a
/// connection keeps: by default hyper's buffer grows with the body, to 120 KiB for each etcd.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;

type BoxedError = Box<dyn Error + Send + Sync>;

fn quoted(path: Option<&PathBuf>) -> String {
    path.map_or_else(String::new, |path| format!(" `{}`", path.display()))
}

/// Returns the remedy for a status that etcd and similar servers are known to return.
fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => "; redirects are not followed, see --endpoints",
        // RKE2 serves only gRPC on port 2379, and metrics on 2381.
        415 => {
            "; this port serves gRPC only, metrics are on another port (RKE2: http://127.0.0.1:2381), see \
             --endpoints"
        }
        401 | 403 => "; a proxy in front of etcd requires authentication, see --endpoints",
        400 => "; a TLS port returns it for plain HTTP, try https://",
        _ => "; see --endpoints",
    }
}

impl ScrapeError {
    /// Returns the value of the label `reason` for this error.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused
            | Self::Unreachable(_)
            | Self::Ended
            | Self::ClosedWithoutAnswer(_)
            | Self::ClosedInHandshake(_) => Reason::Refused,
            Self::Timeout(_) | Self::NetworkTimeout(_) => Reason::Timeout,
            Self::Dns(_) => Reason::Dns,
            Self::Untrusted(_) | Self::WrongUsage(_) | Self::NoAuthority => Reason::TlsUntrusted,
            Self::WrongName(_) => Reason::TlsName,
            Self::Expired(_) => Reason::TlsExpired,
            Self::ClientRejected(..) | Self::ClientMissing(_) => Reason::TlsClientRejected,
            Self::Status(_) => Reason::HttpStatus,
            Self::TooLarge(_) => Reason::TooLarge,
            Self::NotTls(_) | Self::NotHttp(_) | Self::Truncated(_) | Self::NotMetrics(_) => {
                Reason::NotMetrics
            }
            Self::NotEtcd(_) => Reason::NotEtcd,
            Self::Credentials { .. } => Reason::UnreadableCredentials,
            Self::Connect(_)
            | Self::Namespace(_)
            | Self::ServerUnready(_)
            | Self::Tls(_)
            | Self::Broken(_)
            | Self::NoEndpoint => Reason::Other,
        }
    }

    /// Returns whether there was no complete response, as on a persistent connection that the server has
    /// closed meanwhile.
    pub(super) fn is_incomplete(&self) -> bool {
        !matches!(self, Self::Status(_) | Self::TooLarge(_) | Self::NotMetrics(_) | Self::NotEtcd(_))
    }

    /// Adds the file of the client certificate that the server rejected, if it is known.
    pub(super) fn with_client_cert(self, path: Option<&PathBuf>) -> Self {
        match self {
            Self::ClientRejected(None, source) => Self::ClientRejected(path.cloned(), source),
            other => other,
        }
    }

    /// Returns the sentence with its causes and without file paths, because every HTTP client may read it.
    fn without_paths(&self) -> String {
        match self {
            Self::Credentials { what, source, .. } => {
                format!("cannot use {what}, whose path is in the log: {source}")
            }
            Self::ClientRejected(_, source) => {
                format!(
                    "cannot authenticate to etcd: it rejected the client certificate; see --cert \
                     and --key: {source}"
                )
            }
            other => logging::chain(other),
        }
    }
}

impl ScrapeFailure {
    pub fn reason(&self) -> Reason {
        self.error.reason()
    }

    /// Returns the sentence with its causes and file paths, for the log.
    pub fn sentence(&self) -> String {
        format!("{self}")
    }

    /// Returns the sentence with its causes and without file paths, for HTTP clients.
    pub fn public_sentence(&self) -> String {
        self.at(&self.error.without_paths())
    }

    fn at(&self, sentence: &str) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("{endpoint}: {sentence}"),
            None => sentence.to_owned(),
        }
    }
}

impl fmt::Display for ScrapeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at(&logging::chain(&self.error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_sentence_contains_no_path() {
        let secret = || PathBuf::from("/pki/etcd/server.key");
        let cases = [
            (
                ScrapeError::Credentials {
                    what: "the key file",
                    path: secret(),
                    source: "no such file".into(),
                },
                "https://h:1: cannot use the key file, whose path is in the log: no such file",
            ),
            (
                ScrapeError::ClientRejected(Some(secret()), "alert".into()),
                "https://h:1: cannot authenticate to etcd: it rejected the client certificate; see --cert \
                 and --key: alert",
            ),
            (
                ScrapeError::NoAuthority,
                "https://h:1: cannot verify etcd's certificate: there is no trusted authority; see --cacert",
            ),
        ];
        for (error, expected) in cases {
            let failure = ScrapeFailure { endpoint: Some("https://h:1".to_owned()), error };
            assert_eq!(failure.public_sentence(), expected);
            let names_file = !matches!(failure.error, ScrapeError::NoAuthority);
            assert_eq!(failure.sentence().contains("/pki/"), names_file, "the log has the path: {failure}");
        }
    }

    #[test]
    fn every_reason_is_described() {
        let page = include_str!("../../../docs/fetching.md");
        for reason in Reason::ALL.map(Reason::as_str) {
            assert!(page.contains(&format!("\n| `{reason}` | ")), "docs/fetching.md has no row for {reason}");
        }
    }

    #[test]
    fn each_status_has_a_remedy() {
        let cases = [
            (302, "redirects are not followed"),
            (415, "gRPC only"),
            (403, "authentication"),
            (400, "https://"),
            (503, "see --endpoints"),
        ];
        for (status, part) in cases {
            let sentence = ScrapeError::Status(status).to_string();
            assert!(sentence.contains(part) && sentence.contains(&status.to_string()), "{sentence}");
        }
    }
}
