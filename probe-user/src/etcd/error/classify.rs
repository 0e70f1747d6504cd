//! Classifies errors of the network, TLS and HTTP.

use std::{error::Error, io, time::Duration};

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::{BoxedError, ScrapeError};

/// The stage in which a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::etcd) enum ConnectionStage {
    /// TLS handshake.
    Handshake { client_auth: ClientAuth },
    /// Waiting for the head of the response.
    Response { client_auth: ClientAuth },
    /// Reading the body.
    Body,
}

/// Whether the server requested a client certificate, and the probe had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::etcd) enum ClientAuth {
    NotRequested,
    /// The probe had no certificate to present.
    Missing,
    /// The probe presented one.
    Presented,
}

impl ScrapeError {
    /// Classifies why no connection was established within `timeout`.
    pub(in crate::etcd) fn from_connect(error: io::Error, timeout: Duration) -> Self {
        use io::ErrorKind::{
            AddrNotAvailable, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown,
            NetworkUnreachable, PermissionDenied, TimedOut,
        };
        match error.kind() {
            ConnectionRefused => Self::Refused,
            TimedOut => Self::Timeout(timeout),
            // A firewall that rejects reports host, network, or permission.
            HostUnreachable | NetworkUnreachable | NetworkDown | AddrNotAvailable | PermissionDenied
            | ConnectionReset => Self::Unreachable(error),
            // A kernel without IPv6.
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Self::Unreachable(error),
            _ => Self::Connect(error),
        }
    }

    /// Classifies an error on a connection by the innermost TLS error, if any.
    ///
    /// A TLS 1.3 server verifies the client certificate after its own handshake is complete, so the rejection
    /// arrives with the first read: as an HTTP error that wraps an I/O error that wraps a TLS error.
    pub(in crate::etcd) fn from_connection(error: BoxedError, stage: ConnectionStage) -> Self {
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
            return Self::NetworkTimeout(error);
        }
        let ended =
            http.is_some_and(|http| http.is_incomplete_message() || http.is_closed() || http.is_canceled());
        match stage {
            ConnectionStage::Body => Self::Truncated(error),
            _ if !ended && !find_io(&*error).is_some_and(is_end) => Self::Broken(error),
            ConnectionStage::Handshake { client_auth: ClientAuth::NotRequested } => {
                Self::ClosedInHandshake(error)
            }
            ConnectionStage::Response { client_auth: ClientAuth::NotRequested } => {
                Self::ClosedWithoutAnswer(error)
            }
            // etcd closes the connection without an alert if the certificate is revoked or issued for another
            // address, once the handshake is complete (checkCRL and checkSAN,
            // client/pkg/transport/listener_tls.go of 3.4 to
            // 3.6).
            ConnectionStage::Handshake { client_auth } | ConnectionStage::Response { client_auth } => {
                Self::rejected(client_auth, error)
            }
        }
    }

    fn rejected(client_auth: ClientAuth, error: BoxedError) -> Self {
        if client_auth == ClientAuth::Missing {
            Self::ClientMissing(error)
        } else {
            Self::ClientRejected(None, error)
        }
    }

    fn from_tls(error: TlsError, stage: ConnectionStage) -> Self {
        let client_auth = match stage {
            ConnectionStage::Handshake { client_auth } | ConnectionStage::Response { client_auth } => {
                client_auth
            }
            ConnectionStage::Body => ClientAuth::NotRequested,
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
                // Every other defect means the same: no trusted authority has issued the certificate.
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
            ) => Self::rejected(client_auth, error.into()),
            // OpenSSL sends this alert in TLS 1.2 to a client without a certificate, and every server sends
            // it to a client without a common cipher suite.
            TlsError::AlertReceived(AlertDescription::HandshakeFailure)
                if client_auth != ClientAuth::NotRequested =>
            {
                Self::rejected(client_auth, error.into())
            }
            // Go sends this alert when it has no certificate, for example while the key does not match the
            // certificate during a rotation.
            TlsError::AlertReceived(AlertDescription::InternalError | AlertDescription::UnrecognisedName) => {
                Self::ServerUnready(error)
            }
            TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::NotHttp(error.into()),
            TlsError::InvalidMessage(_) if matches!(stage, ConnectionStage::Handshake { .. }) => {
                Self::NotTls(error)
            }
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

/// Returns the cause of an error. `io::Error::source` skips the error that it wraps, hence `get_ref`.
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
    fn each_errno_of_connect_has_its_reason() {
        let cases = [
            (libc::ECONNREFUSED, Reason::Refused, "no process listens"),
            (libc::EHOSTUNREACH, Reason::Refused, "no such host"),
            (libc::ENETUNREACH, Reason::Refused, "no route"),
            (libc::ENETDOWN, Reason::Refused, "an interface that is down"),
            (libc::EADDRNOTAVAIL, Reason::Refused, "::1 without IPv6"),
            (libc::EAFNOSUPPORT, Reason::Refused, "a kernel without IPv6"),
            (libc::EACCES, Reason::Refused, "a firewall that rejects"),
            (libc::ETIMEDOUT, Reason::Timeout, "a firewall that drops"),
            (libc::EMFILE, Reason::Other, "no descriptor left"),
        ];
        for (errno, expected, why) in cases {
            let error =
                ScrapeError::from_connect(io::Error::from_raw_os_error(errno), Duration::from_secs(1));
            assert_eq!(error.reason(), expected, "{why}: {error}");
        }
    }

    #[test]
    fn an_end_of_the_connection_is_classified_by_stage() {
        const NOT_REQUESTED: ConnectionStage =
            ConnectionStage::Response { client_auth: ClientAuth::NotRequested };
        const PRESENTED: ConnectionStage = ConnectionStage::Response { client_auth: ClientAuth::Presented };
        const HANDSHAKE: ConnectionStage =
            ConnectionStage::Handshake { client_auth: ClientAuth::NotRequested };
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let alert = |alert| io::Error::other(TlsError::AlertReceived(alert));
        let invalid = |error| io::Error::other(TlsError::InvalidCertificate(error));
        let cases = [
            (ended(), NOT_REQUESTED, Reason::Refused, "closed without an answer"),
            (ended(), HANDSHAKE, Reason::Refused, "closed in the handshake"),
            (ended(), PRESENTED, Reason::TlsClientRejected, "closed after a certificate was presented"),
            (
                ended(),
                ConnectionStage::Response { client_auth: ClientAuth::Missing },
                Reason::TlsClientRejected,
                "closed after a certificate was requested",
            ),
            (ended(), ConnectionStage::Body, Reason::NotMetrics, "closed in the body"),
            (io::ErrorKind::ConnectionReset.into(), NOT_REQUESTED, Reason::Refused, "reset"),
            (io::ErrorKind::TimedOut.into(), NOT_REQUESTED, Reason::Timeout, "the network timed out"),
            (
                alert(AlertDescription::CertificateRequired),
                PRESENTED,
                Reason::TlsClientRejected,
                "TLS 1.3, at the first read",
            ),
            (
                alert(AlertDescription::DecryptError),
                HANDSHAKE,
                Reason::TlsClientRejected,
                "a key that is not the certificate's",
            ),
            (alert(AlertDescription::HandshakeFailure), HANDSHAKE, Reason::Other, "no common cipher suite"),
            (
                alert(AlertDescription::HandshakeFailure),
                ConnectionStage::Handshake { client_auth: ClientAuth::Missing },
                Reason::TlsClientRejected,
                "OpenSSL, without a client certificate",
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
                "not issued for servers",
            ),
            (invalid(CertificateError::UnknownIssuer), HANDSHAKE, Reason::TlsUntrusted, "self-signed"),
            (
                invalid(CertificateError::NotValidForName),
                HANDSHAKE,
                Reason::TlsName,
                "issued for another host",
            ),
            (invalid(CertificateError::NotValidYet), HANDSHAKE, Reason::TlsExpired, "not valid yet"),
            (io::Error::other("odd"), NOT_REQUESTED, Reason::Other, "anything else"),
        ];
        for (error, stage, expected, why) in cases {
            let error = ScrapeError::from_connection(error.into(), stage);
            assert_eq!(error.reason(), expected, "{why}: {error:?}");
            assert!(error.to_string().starts_with("cannot "), "{why}: {error}");
        }
    }
}
