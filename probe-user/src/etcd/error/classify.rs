//! From what the network, TLS and HTTP say went wrong to one of our reasons.

use std::{error::Error, io, time::Duration};

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::{BoxedError, ScrapeError};

/// How far a connection had got when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::etcd) enum Stage {
    /// Agreeing on TLS.
    Handshake { asked: Asked },
    /// Waiting for the head of the answer.
    Answer { asked: Asked },
    /// Reading the body.
    Body,
}

/// Whether the server asked for a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::etcd) enum Asked {
    No,
    /// And we had none to show.
    InVain,
    /// And we showed one.
    AndShown,
}

impl ScrapeError {
    /// Classifies why no connection came about within `timeout`.
    pub(in crate::etcd) fn from_connect(error: io::Error, timeout: Duration) -> Self {
        use io::ErrorKind::{
            AddrNotAvailable, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown,
            NetworkUnreachable, PermissionDenied, TimedOut,
        };
        match error.kind() {
            ConnectionRefused => Self::Refused,
            TimedOut => Self::Timeout(timeout),
            // A firewall that rejects says host, network, or permission.
            HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable | PermissionDenied
            | ConnectionReset => Self::Unreachable(error),
            // A kernel without IPv6.
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Self::Unreachable(error),
            _ => Self::Connect(error),
        }
    }

    /// Classifies what failed on a connection, looking for the TLS error at its bottom.
    ///
    /// A server of TLS 1.3 judges our certificate after its own handshake is done, so its rejection arrives with the
    /// first read: as an error of HTTP that wraps one of I/O that wraps one of TLS.
    pub(in crate::etcd) fn from_connection(error: BoxedError, stage: Stage) -> Self {
        if let Some(tls) = find::<TlsError>(&*error) {
            return Self::from_tls(tls.clone(), stage);
        }
        let http = find::<hyper::Error>(&*error);
        if http.is_some_and(hyper::Error::is_parse_too_large) {
            return Self::TooLarge(super::MAX_HEAD_BYTES);
        }
        if http.is_some_and(hyper::Error::is_parse) {
            return Self::NotHttp(error);
        }
        if find_io(&*error).is_some_and(|kind| kind == io::ErrorKind::TimedOut) {
            return Self::Lost(error);
        }
        let ended =
            http.is_some_and(|http| http.is_incomplete_message() || http.is_closed() || http.is_canceled());
        match stage {
            Stage::Body => Self::Truncated(error),
            _ if !ended && !find_io(&*error).is_some_and(is_end) => Self::Broken(error),
            Stage::Handshake { asked: Asked::No } => Self::HungUpInHandshake(error),
            Stage::Answer { asked: Asked::No } => Self::HungUp(error),
            // etcd says nothing more to a certificate that it finds revoked, or made for another address, once the
            // handshake is done (checkCRL and checkSAN, client/pkg/transport/listener_tls.go of 3.4 to 3.6).
            Stage::Handshake { asked } | Stage::Answer { asked } => Self::rejected(asked, error),
        }
    }

    fn rejected(asked: Asked, error: BoxedError) -> Self {
        if asked == Asked::InVain { Self::ClientMissing(error) } else { Self::ClientRejected(None, error) }
    }

    fn from_tls(error: TlsError, stage: Stage) -> Self {
        let asked = match stage {
            Stage::Handshake { asked } | Stage::Answer { asked } => asked,
            Stage::Body => Asked::No,
        };
        match &error {
            TlsError::InvalidCertificate(certificate) => match certificate {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Expired(error),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::WrongName(error)
                }
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                    Self::WrongUsage(error)
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
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied,
            ) => Self::rejected(asked, error.into()),
            // What OpenSSL says in TLS 1.2 to a client without a certificate, and everybody to one without a cipher suite.
            TlsError::AlertReceived(AlertDescription::HandshakeFailure) if asked != Asked::No => {
                Self::rejected(asked, error.into())
            }
            // What Go says when it has no certificate, as while the key is not yet that of the certificate.
            TlsError::AlertReceived(AlertDescription::InternalError | AlertDescription::UnrecognisedName) => {
                Self::ServerUnready(error)
            }
            TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::NotHttp(error.into()),
            TlsError::InvalidMessage(_) if matches!(stage, Stage::Handshake { .. }) => Self::NotTls(error),
            _ => Self::Tls(error),
        }
    }
}

fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

/// Returns the kind of the innermost I/O error.
fn find_io(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    chain(error).filter_map(|error| error.downcast_ref::<io::Error>()).last().map(io::Error::kind)
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref::<E>())
}

/// Returns an error and its causes.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

/// `io::Error::source` skips the very error that it wraps, hence `get_ref`.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::scrape_failure::Reason;

    #[test]
    fn where_nobody_can_be_reached_is_one_reason() {
        let cases = [
            (libc::ECONNREFUSED, Reason::Refused, "nobody listens"),
            (libc::EHOSTUNREACH, Reason::Refused, "no such host"),
            (libc::ENETUNREACH, Reason::Refused, "no route"),
            (libc::ENETDOWN, Reason::Refused, "an interface that is down"),
            (libc::EADDRNOTAVAIL, Reason::Refused, "::1 without IPv6"),
            (libc::EAFNOSUPPORT, Reason::Refused, "a kernel without IPv6"),
            (libc::EACCES, Reason::Refused, "a firewall that says so"),
            (libc::ETIMEDOUT, Reason::Timeout, "a firewall that is silent"),
            (libc::EMFILE, Reason::Other, "no descriptor left"),
        ];
        for (errno, expected, why) in cases {
            let error =
                ScrapeError::from_connect(io::Error::from_raw_os_error(errno), Duration::from_secs(1));
            assert_eq!(error.reason(), expected, "{why}: {error}");
        }
    }

    #[test]
    fn what_ends_a_connection_is_told_by_how_far_it_had_got() {
        const NOT_ASKED: Stage = Stage::Answer { asked: Asked::No };
        const SHOWN: Stage = Stage::Answer { asked: Asked::AndShown };
        const HANDSHAKE: Stage = Stage::Handshake { asked: Asked::No };
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let alert = |alert| io::Error::other(TlsError::AlertReceived(alert));
        let invalid = |error| io::Error::other(TlsError::InvalidCertificate(error));
        let cases = [
            (ended(), NOT_ASKED, Reason::Refused, "it hung up without a word"),
            (ended(), HANDSHAKE, Reason::Refused, "so it did in the handshake"),
            (ended(), SHOWN, Reason::TlsClientRejected, "after it had seen our certificate"),
            (
                ended(),
                Stage::Answer { asked: Asked::InVain },
                Reason::TlsClientRejected,
                "after it had asked",
            ),
            (ended(), Stage::Body, Reason::NotMetrics, "in the middle"),
            (io::ErrorKind::ConnectionReset.into(), NOT_ASKED, Reason::Refused, "reset"),
            (io::ErrorKind::TimedOut.into(), NOT_ASKED, Reason::Timeout, "the network went away"),
            (
                alert(AlertDescription::CertificateRequired),
                SHOWN,
                Reason::TlsClientRejected,
                "TLS 1.3, at the first read",
            ),
            (
                alert(AlertDescription::DecryptError),
                HANDSHAKE,
                Reason::TlsClientRejected,
                "a key that is not the certificate's",
            ),
            (
                alert(AlertDescription::HandshakeFailure),
                HANDSHAKE,
                Reason::Other,
                "no cipher suite suits both",
            ),
            (
                alert(AlertDescription::HandshakeFailure),
                Stage::Handshake { asked: Asked::InVain },
                Reason::TlsClientRejected,
                "OpenSSL, without a certificate of ours",
            ),
            (
                alert(AlertDescription::InternalError),
                HANDSHAKE,
                Reason::Other,
                "etcd cannot read its own files",
            ),
            (alert(AlertDescription::NoApplicationProtocol), HANDSHAKE, Reason::NotMetrics, "HTTP/2 only"),
            (
                invalid(CertificateError::InvalidPurpose),
                HANDSHAKE,
                Reason::TlsUntrusted,
                "not made for servers",
            ),
            (invalid(CertificateError::UnknownIssuer), HANDSHAKE, Reason::TlsUntrusted, "self-signed"),
            (invalid(CertificateError::NotValidForName), HANDSHAKE, Reason::TlsName, "another host's"),
            (invalid(CertificateError::NotValidYet), HANDSHAKE, Reason::TlsExpired, "not valid yet"),
            (io::Error::other("odd"), NOT_ASKED, Reason::Other, "whatever else"),
        ];
        for (error, stage, expected, why) in cases {
            let error = ScrapeError::from_connection(error.into(), stage);
            assert_eq!(error.reason(), expected, "{why}: {error:?}");
            assert!(error.to_string().starts_with("cannot "), "{why}: {error}");
        }
    }
}
