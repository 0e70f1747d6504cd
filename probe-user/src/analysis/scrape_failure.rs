//! Reasons for which a scrape of etcd fails.

/// The label of a failed scrape: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nobody is there, or who is hung up without a word: the way is closed, the process has ended.
    Refused,
    Timeout,
    Dns,
    /// Nobody we trust vouches for the server's certificate, or not for this use of it.
    TlsUntrusted,
    TlsName,
    TlsExpired,
    /// The server does not take our certificate, or the lack of one.
    TlsClientRejected,
    HttpStatus,
    TooLarge,
    /// Something was said, and it was no metrics: no TLS, no HTTP, cut short, in an encoding that nobody asked for.
    NotMetrics,
    NotEtcd,
    /// A file of ours or of etcd's cannot be read, or is not what it should be.
    UnreadableCredentials,
    /// What fits nowhere: the namespace is closed to us, no endpoint is known, no TLS version or cipher suite suits both, etcd
    /// has no certificate to show, this process is out of descriptors or threads.
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
