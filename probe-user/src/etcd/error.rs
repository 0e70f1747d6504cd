//! Why a scrape failed: one sentence for the operator, one word for the counter.

use std::{error::Error, io, path::PathBuf};

use rustls::{AlertDescription, CertificateError, Error as TlsError};

/// Why a scrape failed.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    #[error("cannot connect to etcd: the connection was refused")]
    Refused,
    #[error("cannot get etcd's metrics in time: no answer within {0:?}")]
    Timeout(std::time::Duration),
    #[error("cannot resolve the name of etcd's endpoint")]
    Dns(#[source] io::Error),
    #[error("cannot connect to etcd")]
    Connect(#[source] io::Error),
    #[error("cannot enter etcd's network namespace; this needs CAP_SYS_ADMIN and CAP_SYS_PTRACE")]
    Namespace(#[source] io::Error),
    #[error("cannot verify etcd's certificate: no authority that we trust has signed it; see --cacert")]
    Untrusted(#[source] TlsError),
    #[error("cannot verify etcd's certificate: it is not valid for the host of the endpoint")]
    WrongName(#[source] TlsError),
    #[error("cannot verify etcd's certificate: it has expired, or is not valid yet")]
    Expired(#[source] TlsError),
    #[error(
        "cannot log in to etcd: it rejected our client certificate, or the lack of one; see --cert and --key"
    )]
    ClientRejected(#[source] TlsError),
    #[error("cannot agree on TLS with etcd")]
    Tls(#[source] TlsError),
    #[error("cannot get etcd's metrics: it answered with HTTP status {0}")]
    Status(u16),
    #[error("cannot read etcd's metrics: the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("cannot get etcd's metrics: the connection broke")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    #[error("cannot read etcd's metrics: {0}")]
    NotMetrics(String),
    #[error("cannot take the answer for etcd's metrics: {0}")]
    NotEtcd(String),
    #[error("cannot use {what} `{}`", path.display())]
    Credentials { what: &'static str, path: PathBuf, source: Box<dyn Error + Send + Sync> },
    #[error("cannot verify etcd's certificate: there is no authority to trust; see --cacert")]
    NoAuthority,
    #[error("cannot find an endpoint of etcd; see --endpoints")]
    NoEndpoint,
}

/// The label of a failed scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Refused,
    Timeout,
    Dns,
    TlsUntrusted,
    TlsName,
    TlsExpired,
    TlsClientRejected,
    HttpStatus,
    TooLarge,
    NotMetrics,
    NotEtcd,
    UnreadableCredentials,
    Other,
}

impl Reason {
    pub const ALL: [Self; 13] = [
        Self::Refused,
        Self::Timeout,
        Self::Dns,
        Self::TlsUntrusted,
        Self::TlsName,
        Self::TlsExpired,
        Self::TlsClientRejected,
        Self::HttpStatus,
        Self::TooLarge,
        Self::NotMetrics,
        Self::NotEtcd,
        Self::UnreadableCredentials,
        Self::Other,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::TlsUntrusted => "tls_untrusted",
            Self::TlsName => "tls_name",
            Self::TlsExpired => "tls_expired",
            Self::TlsClientRejected => "tls_client_rejected",
            Self::HttpStatus => "http_status",
            Self::TooLarge => "too_large",
            Self::NotMetrics => "not_metrics",
            Self::NotEtcd => "not_etcd",
            Self::UnreadableCredentials => "unreadable_credentials",
            Self::Other => "other",
        }
    }
}

impl ScrapeError {
    /// Returns the label under which the failure is counted.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused => Reason::Refused,
            Self::Timeout(_) => Reason::Timeout,
            Self::Dns(_) => Reason::Dns,
            Self::Untrusted(_) | Self::NoAuthority => Reason::TlsUntrusted,
            Self::WrongName(_) => Reason::TlsName,
            Self::Expired(_) => Reason::TlsExpired,
            Self::ClientRejected(_) => Reason::TlsClientRejected,
            Self::Status(_) => Reason::HttpStatus,
            Self::TooLarge(_) => Reason::TooLarge,
            Self::NotMetrics(_) => Reason::NotMetrics,
            Self::NotEtcd(_) => Reason::NotEtcd,
            Self::Credentials { .. } => Reason::UnreadableCredentials,
            Self::Connect(_) | Self::Namespace(_) | Self::Tls(_) | Self::Broken(_) | Self::NoEndpoint => {
                Reason::Other
            }
        }
    }

    /// Classifies what failed on a connection, looking for the TLS error at its bottom.
    ///
    /// A server of TLS 1.3 judges our certificate after its own handshake is done, so its rejection arrives with the
    /// first read: as an error of HTTP that wraps one of I/O that wraps one of TLS.
    pub(super) fn from_connection(error: Box<dyn Error + Send + Sync>) -> Self {
        match tls_error(&*error) {
            Some(tls) => Self::from_tls(tls.clone()),
            None => Self::Broken(error),
        }
    }

    fn from_tls(error: TlsError) -> Self {
        match &error {
            TlsError::InvalidCertificate(certificate) => match certificate {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired(error),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::WrongName(error)
                }
                // The rest of what can be wrong with it comes to the same: nobody we trust vouches for it.
                _ => Self::Untrusted(error),
            },
            TlsError::AlertReceived(
                AlertDescription::NoCertificate
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied,
            ) => Self::ClientRejected(error),
            _ => Self::Tls(error),
        }
    }
}

/// `io::Error::source` skips the very error that it wraps, hence `get_ref`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    let mut next: Option<&'a (dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<TlsError>() {
            return Some(tls);
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}
