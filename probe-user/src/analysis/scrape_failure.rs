//! Reasons for which a scrape of etcd fails.

/// The label of a failed scrape: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The connection was refused, the address is unreachable, the peer closed the connection without a
    /// response, or the process has ended.
    Refused,
    Timeout,
    Dns,
    /// No trusted authority signed the server's certificate, or the certificate is not valid for this use.
    TlsUntrusted,
    TlsName,
    TlsExpired,
    /// The server rejected the probe's client certificate, or requires one.
    TlsClientRejected,
    HttpStatus,
    TooLarge,
    /// The response is not metrics: no TLS, no HTTP, truncated, or in an encoding that was not requested.
    NotMetrics,
    NotEtcd,
    /// A credential file of the probe or of etcd cannot be read or parsed.
    UnreadableCredentials,
    /// Any other failure: the network namespace cannot be entered, no endpoint is known, no common TLS
    /// version or cipher suite, etcd has no server certificate, the probe is out of file descriptors or
    /// threads.
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
