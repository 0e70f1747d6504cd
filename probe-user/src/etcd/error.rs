//! Why a scrape failed: one sentence for the operator, one word for the counter.

mod classify;

use std::{error::Error, fmt, io, path::PathBuf};

use rustls::Error as TlsError;

pub(super) use classify::{Asked, Stage};

use crate::{analysis::scrape_failure::Reason, support::logging};

/// A scrape that failed, and where.
#[derive(Debug)]
pub struct Failure {
    /// The endpoint that was asked first; none if there is none.
    pub endpoint: Option<String>,
    pub error: ScrapeError,
}

/// Why a scrape failed.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    #[error("cannot connect to etcd: the connection was refused; is that its address? see --endpoints")]
    Refused,
    #[error("cannot connect to etcd: its address cannot be reached from here; see --endpoints")]
    Unreachable(#[source] io::Error),
    #[error("cannot connect to etcd: its process has ended")]
    Ended,
    #[error(
        "cannot get etcd's metrics: it hung up without an answer; a port that speaks TLS does so, try https://"
    )]
    HungUp(#[source] BoxedError),
    #[error("cannot agree on TLS with etcd: it hung up; a port that speaks plain HTTP does so, try http://")]
    HungUpInHandshake(#[source] BoxedError),
    #[error("cannot get etcd's metrics in time: no answer within {0:?}; see --command-timeout")]
    Timeout(std::time::Duration),
    #[error("cannot get etcd's metrics in time: the network lost the connection")]
    Lost(#[source] BoxedError),
    #[error("cannot resolve the name of etcd's endpoint; see --endpoints")]
    Dns(#[source] io::Error),
    #[error("cannot connect to etcd")]
    Connect(#[source] io::Error),
    #[error("cannot enter etcd's network namespace; this needs CAP_SYS_ADMIN and CAP_SYS_PTRACE")]
    Namespace(#[source] io::Error),
    #[error("cannot verify etcd's certificate: no authority that we trust has signed it; see --cacert")]
    Untrusted(#[source] TlsError),
    #[error("cannot verify etcd's certificate: it was not made for servers (extended key usage); renew it")]
    WrongUsage(#[source] TlsError),
    #[error(
        "cannot verify etcd's certificate: it is not valid for the host of the endpoint; give an address that is in it \
         with --endpoints, or a name that is with --tls-server-name"
    )]
    WrongName(#[source] TlsError),
    #[error("cannot verify etcd's certificate: it has expired, or is not valid yet")]
    Expired(#[source] TlsError),
    #[error("cannot log in to etcd: it rejected our client certificate{}; see --cert and --key", shown(.0.as_ref()))]
    ClientRejected(Option<PathBuf>, #[source] BoxedError),
    #[error(
        "cannot log in to etcd: it asks for a client certificate, and we have none that may be shown; see --cert and --key"
    )]
    ClientMissing(#[source] BoxedError),
    #[error("cannot agree on TLS with etcd: it speaks something else; is the endpoint http://?")]
    NotTls(#[source] TlsError),
    #[error(
        "cannot agree on TLS with etcd: it has no certificate to show; do its --cert-file and --key-file fit?"
    )]
    ServerUnready(#[source] TlsError),
    #[error("cannot agree on TLS with etcd: no version or cipher suite suits both; see its --cipher-suites")]
    Tls(#[source] TlsError),
    #[error("cannot get etcd's metrics: it answered with HTTP status {0}{hint}", hint = hint(*.0))]
    Status(u16),
    #[error("cannot read etcd's metrics: the answer is larger than {0} bytes; is this etcd? see --endpoints")]
    TooLarge(usize),
    #[error("cannot get etcd's metrics: the connection broke")]
    Broken(#[source] BoxedError),
    #[error("cannot read etcd's metrics: the answer broke off")]
    Truncated(#[source] BoxedError),
    #[error("cannot read etcd's metrics: the answer is no HTTP/1.1; see --endpoints")]
    NotHttp(#[source] BoxedError),
    #[error("cannot read etcd's metrics: {0}; see --endpoints")]
    NotMetrics(String),
    #[error("cannot take the answer for etcd's metrics: {0}; see --endpoints")]
    NotEtcd(String),
    #[error("cannot use {what} `{}`", path.display())]
    Credentials { what: &'static str, path: PathBuf, source: BoxedError },
    #[error("cannot verify etcd's certificate: there is no authority to trust; see --cacert")]
    NoAuthority,
    #[error("cannot find an endpoint of etcd; see --endpoints")]
    NoEndpoint,
}

/// etcd's heads have some 200 bytes. It is how much is read at once, too: a kept connection keeps that, and the default is to let it
/// grow with the body, to 120 KiB an etcd.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;

type BoxedError = Box<dyn Error + Send + Sync>;

fn shown(path: Option<&PathBuf>) -> String {
    path.map_or_else(String::new, |path| format!(" `{}`", path.display()))
}

/// Returns what to do about a status that etcd and its like are known to give.
fn hint(status: u16) -> &'static str {
    match status {
        300..=399 => "; redirects are not followed, see --endpoints",
        // RKE2 serves gRPC alone at 2379, and metrics at 2381.
        415 => {
            "; this port takes gRPC alone, its metrics are at another one (RKE2: http://127.0.0.1:2381), see --endpoints"
        }
        401 | 403 => "; something before etcd asks for a log-in, see --endpoints",
        400 => "; a port that speaks TLS gives it to plain HTTP, try https://",
        _ => "; see --endpoints",
    }
}

impl ScrapeError {
    /// Returns the label under which the failure is counted.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused
            | Self::Unreachable(_)
            | Self::Ended
            | Self::HungUp(_)
            | Self::HungUpInHandshake(_) => Reason::Refused,
            Self::Timeout(_) | Self::Lost(_) => Reason::Timeout,
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

    /// Returns whether there was no whole answer, as on a connection that was kept and that the other side has closed since.
    pub(super) fn is_no_answer(&self) -> bool {
        !matches!(self, Self::Status(_) | Self::TooLarge(_) | Self::NotMetrics(_) | Self::NotEtcd(_))
    }

    /// Names the certificate that the server rejected, if it is known.
    pub(super) fn showing(self, path: Option<&PathBuf>) -> Self {
        match self {
            Self::ClientRejected(None, source) => Self::ClientRejected(path.cloned(), source),
            other => other,
        }
    }

    /// Returns the sentence with its causes, and without the path of any file: anybody may read it over HTTP.
    fn without_paths(&self) -> String {
        match self {
            Self::Credentials { what, source, .. } => {
                format!("cannot use {what}, whose path is in the log: {source}")
            }
            Self::ClientRejected(_, source) => {
                format!(
                    "cannot log in to etcd: it rejected our client certificate; see --cert and --key: {source}"
                )
            }
            other => logging::chain(other),
        }
    }
}

impl Failure {
    pub fn reason(&self) -> Reason {
        self.error.reason()
    }

    /// Returns the sentence with its causes for the log, files named.
    pub fn sentence(&self) -> String {
        format!("{self}")
    }

    /// Returns the sentence for whoever asks over HTTP: it names no file.
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

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.at(&logging::chain(&self.error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_is_told_to_strangers() {
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
                "https://h:1: cannot log in to etcd: it rejected our client certificate; see --cert and --key: alert",
            ),
            (
                ScrapeError::NoAuthority,
                "https://h:1: cannot verify etcd's certificate: there is no authority to trust; see --cacert",
            ),
        ];
        for (error, expected) in cases {
            let failure = Failure { endpoint: Some("https://h:1".to_owned()), error };
            assert_eq!(failure.public_sentence(), expected);
            let names_file = !matches!(failure.error, ScrapeError::NoAuthority);
            assert_eq!(failure.sentence().contains("/pki/"), names_file, "the log has it: {failure}");
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
    fn statuses_come_with_the_way_out() {
        let cases = [
            (302, "redirects are not followed"),
            (415, "gRPC alone"),
            (403, "log-in"),
            (400, "https://"),
            (503, "see --endpoints"),
        ];
        for (status, part) in cases {
            let sentence = ScrapeError::Status(status).to_string();
            assert!(sentence.contains(part) && sentence.contains(&status.to_string()), "{sentence}");
        }
    }
}
