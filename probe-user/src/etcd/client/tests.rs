//! Every reason for a failed scrape, caused by a real server on the loopback address.

mod pki;
mod rotation;
mod unix_sockets;

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use pki::{Pki, expired};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    analysis::scrape_failure::Reason,
    discovery::{Credentials, KeyPair as ClientPair, ProcessId},
    etcd::dial::enter,
};

const METRICS: &str = include_str!("../../../testdata/etcd-3.4.23-metrics.txt");
const TIMEOUT: Duration = Duration::from_secs(5);

/// Behavior of the server on a connection.
#[derive(Clone, Copy, PartialEq)]
enum Serves {
    Metrics,
    /// One response per connection, without announcing the close.
    MetricsOnce,
    /// All metrics in the first response, then only the required ones.
    FewerMetrics,
    Body(&'static str),
    Status(&'static str),
    Endless,
    Nothing,
}

/// Serves on a listener until the test ends; returns the port and the number of connections so far.
fn serve(listener: TcpListener, tls: Option<ServerConfig>, serves: Serves) -> (u16, Arc<AtomicUsize>) {
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let connections = count.clone();
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::Relaxed);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => answer(stream, serves).await,
                        Err(_) => None,
                    },
                    None => answer(stream, serves).await,
                }
            });
        }
    });
    (port, count)
}

async fn local(tls: Option<ServerConfig>, serves: Serves) -> (u16, Arc<AtomicUsize>) {
    serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), tls, serves)
}

/// Returns the few metrics that every etcd must have.
fn fewer() -> String {
    METRICS.split_inclusive('\n').filter(|line| line.contains("etcd_disk_")).collect()
}

/// Returns, with or without a value, once the client has disconnected.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, serves: Serves) -> Option<()> {
    for answered in 0.. {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.ok()?);
        }
        let (status, body) = match serves {
            Serves::FewerMetrics if answered > 0 => ("200 OK", fewer()),
            Serves::Metrics | Serves::MetricsOnce | Serves::FewerMetrics => ("200 OK", METRICS.to_owned()),
            Serves::Body(body) => ("200 OK", body.to_owned()),
            Serves::Status(status) => (status, String::new()),
            Serves::Nothing => std::future::pending().await,
            Serves::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
                loop {
                    stream.write_all(&[b'#'; 1 << 14]).await.ok()?;
                }
            }
        };
        let head =
            format!("HTTP/1.1 {status}\r\nlocation: /elsewhere\r\ncontent-length: {}\r\n\r\n", body.len());
        // The head is sent first, as etcd does.
        for part in [head, body] {
            stream.write_all(part.as_bytes()).await.ok()?;
            stream.flush().await.ok()?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if serves == Serves::MetricsOnce {
            return None;
        }
    }
    None
}

fn client(url: &str, credentials: &Credentials, timeout: Duration) -> Client {
    let endpoint = Endpoint { credentials: credentials.clone(), ..Endpoint::parse(url).unwrap() };
    Client::new(vec![endpoint], timeout)
}

async fn reason(url: &str, credentials: &Credentials) -> Reason {
    let error = client(url, credentials, TIMEOUT).scrape().await.expect_err("the scrape must fail");
    assert_eq!(error.endpoint.as_deref(), Some(url), "the error has the endpoint: {error}");
    assert!(error.error.to_string().starts_with("cannot "), "{error}");
    error.reason()
}

#[tokio::test]
async fn each_invalid_response_has_its_reason() {
    let cases = [
        (Serves::Endless, Reason::TooLarge),
        (Serves::Body("<html>It works!</html>"), Reason::NotMetrics),
        (Serves::Body("# TYPE up gauge\nup 1\n"), Reason::NotEtcd),
        (Serves::Status("404 Not Found"), Reason::HttpStatus),
        (Serves::Status("302 Found"), Reason::HttpStatus),
    ];
    for (serves, expected) in cases {
        let (port, _) = local(None, serves).await;
        assert_eq!(reason(&format!("http://127.0.0.1:{port}"), &Credentials::default()).await, expected);
    }
}

#[tokio::test]
async fn a_server_that_is_silent_or_absent_has_its_reason() {
    let none = Credentials::default();
    let (port, _) = local(None, Serves::Nothing).await;
    for scheme in ["http", "https"] {
        let credentials = Credentials { insecure_skip_verify: true, ..none.clone() };
        // With https the server waits for a request, and never answers the handshake that it receives.
        let mut client =
            client(&format!("{scheme}://127.0.0.1:{port}"), &credentials, Duration::from_millis(300));
        let started = std::time::Instant::now();
        assert_eq!(client.scrape().await.expect_err("no answer").reason(), Reason::Timeout, "{scheme}");
        assert!(started.elapsed() < Duration::from_secs(2), "{scheme}: bounded in time");
    }
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
    assert_eq!(reason(&format!("http://127.0.0.1:{free}"), &none).await, Reason::Refused);
    assert_eq!(reason(&format!("http://localhost:{free}"), &none).await, Reason::Refused);
    assert_eq!(reason("http://no-such-host.invalid:1", &none).await, Reason::Dns);
    assert_eq!(Client::new(vec![], TIMEOUT).scrape().await.expect_err("no endpoint").reason(), Reason::Other);
}

#[tokio::test]
async fn a_connection_is_reused_and_reestablished_once_it_is_stale() {
    for (serves, connections) in [(Serves::Metrics, 1), (Serves::FewerMetrics, 1), (Serves::MetricsOnce, 3)] {
        let (port, count) = local(None, serves).await;
        let mut client = client(&format!("http://127.0.0.1:{port}"), &Credentials::default(), TIMEOUT);
        for _ in 0..3 {
            assert_eq!(client.scrape().await.unwrap().wal_fsync.count, 5);
        }
        assert_eq!(count.load(Ordering::Relaxed), connections);
    }
}

#[tokio::test]
async fn the_next_endpoint_is_tried_and_the_first_error_is_reported() {
    let (good, _) = local(None, Serves::Metrics).await;
    let (bad, _) = local(None, Serves::Status("500 Oops")).await;
    let parse = |port: u16| Endpoint::parse(&format!("http://127.0.0.1:{port}")).unwrap();
    let mut client = Client::new(vec![parse(bad), parse(good)], TIMEOUT);
    client.scrape().await.unwrap();
    assert_eq!(client.endpoint().unwrap().port, good, "the one that answers is tried first from then on");
    let mut client = Client::new(vec![parse(bad), parse(1)], TIMEOUT);
    assert_eq!(client.scrape().await.expect_err("both fail").reason(), Reason::HttpStatus);
}

#[tokio::test]
async fn etcds_network_namespace_is_entered() {
    assert!(rustix::process::geteuid().is_root(), "this test creates a network namespace: run it as root");
    let mut holder = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 2];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut up).unwrap();
    let id = ProcessId::of(holder.id()).unwrap();
    let listener = std::thread::spawn(move || {
        enter(id).unwrap();
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    });
    let listener = listener.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    let (port, _) = serve(TcpListener::from_std(listener).unwrap(), None, Serves::Metrics);
    let here = Endpoint::parse(&format!("http://127.0.0.1:{port}")).unwrap();
    let there = Endpoint { network_of: Some(id), ..here.clone() };
    let inside = Client::new(vec![there.clone()], TIMEOUT).scrape().await;
    let outside = Client::new(vec![here], TIMEOUT).scrape().await;
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(inside.unwrap().wal_fsync.count, 5);
    assert_eq!(outside.expect_err("no process listens here").reason(), Reason::Refused);
    let gone = Client::new(vec![there], TIMEOUT).scrape().await.expect_err("its process has ended");
    assert!(matches!(gone.error, ScrapeError::Ended), "{gone:?}");
}

#[tokio::test]
async fn each_fault_of_the_servers_certificate_has_its_reason() {
    let pki = Pki::new("server");
    let other = Pki::new("other");
    let good = pki.issue("good", "127.0.0.1", |_| {});
    let wrong_name = pki.issue("name", "etcd.example", |_| {});
    let old = pki.issue("old", "127.0.0.1", expired);
    let own = |pair: &ClientPair| Credentials {
        server_certificate: Some(pair.certificate.clone()),
        ..Credentials::default()
    };
    let self_signed = pki.issue("self", "etcd.example", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let named = |name: &str, credentials: Credentials| Credentials {
        server_name: Some(name.to_owned()),
        ..credentials
    };
    let for_clients = pki.issue("usage", "127.0.0.1", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let cases = [
        (&wrong_name, named("etcd.example", pki.trusting(vec![])), None, "issued for the configured name"),
        (
            &good,
            named("etcd.example", pki.trusting(vec![])),
            Some(Reason::TlsName),
            "the configured name replaces the host",
        ),
        (&self_signed, named("etcd.example", own(&self_signed)), None, "etcd's own, with that name"),
        (
            &self_signed,
            named("other.example", own(&self_signed)),
            Some(Reason::TlsName),
            "the name must also be in etcd's own",
        ),
        (&for_clients, pki.trusting(vec![]), Some(Reason::TlsUntrusted), "issued for clients"),
        (&good, pki.trusting(vec![]), None, "signed by the authority"),
        (&good, other.trusting(vec![]), Some(Reason::TlsUntrusted), "signed by another authority"),
        (&wrong_name, pki.trusting(vec![]), Some(Reason::TlsName), "issued for another host"),
        (&old, pki.trusting(vec![]), Some(Reason::TlsExpired), "expired"),
        (&self_signed, own(&self_signed), None, "equal to etcd's own file"),
        (&old, own(&old), Some(Reason::TlsExpired), "expired, although equal to etcd's own file"),
        (&good, own(&self_signed), Some(Reason::TlsUntrusted), "differs from etcd's own file"),
        (&good, Credentials::default(), Some(Reason::TlsUntrusted), "no trusted authority"),
        (
            &old,
            Credentials { insecure_skip_verify: true, ..Credentials::default() },
            None,
            "verification is disabled",
        ),
    ];
    for (pair, credentials, expected, why) in cases {
        let (port, _) = local(Some(pki.server(pair, false)), Serves::Metrics).await;
        let outcome = client(&format!("https://127.0.0.1:{port}"), &credentials, TIMEOUT).scrape().await;
        assert_eq!(outcome.err().map(|error| error.reason()), expected, "{why}");
    }
}

#[tokio::test]
async fn each_fault_of_the_clients_certificate_has_its_reason() {
    let pki = Pki::new("client");
    let other = Pki::new("stranger");
    let server = pki.issue("server", "127.0.0.1", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let usable = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let good = pki.issue("good", "client", usable);
    let stranger = other.issue("stranger", "client", usable);
    let old = pki.issue("old", "client", expired);
    let missing = ClientPair { certificate: pki.file("none.pem"), key: pki.file("none.key") };
    let not_pem = ClientPair { certificate: good.certificate.clone(), key: pki.file("ca.pem") };
    let mismatched = ClientPair { certificate: good.certificate.clone(), key: stranger.key.clone() };
    let rejected = Some(Reason::TlsClientRejected);
    let unreadable = Some(Reason::UnreadableCredentials);
    let cases = [
        (vec![good.clone()], None, "the right one"),
        (vec![server.clone(), good.clone()], None, "the first that is for clients"),
        (vec![stranger.clone(), good.clone()], None, "the first that etcd's authority has issued"),
        (vec![missing.clone(), good], None, "a missing one is replaced by the next"),
        (vec![], rejected, "none"),
        (vec![server.clone()], rejected, "a server-only certificate is not presented"),
        (vec![stranger], rejected, "from another authority"),
        (vec![old], rejected, "expired"),
        (vec![missing], unreadable, "no such file"),
        (vec![not_pem], unreadable, "the key file contains no key"),
        (vec![mismatched], unreadable, "the key belongs to another certificate"),
    ];
    let (port, _) = local(Some(pki.server(&server, true)), Serves::Metrics).await;
    let url = format!("https://127.0.0.1:{port}");
    for (pairs, expected, why) in cases {
        // The server's alert races with the request, so a single attempt proves little.
        for _ in 0..20 {
            let outcome = client(&url, &pki.trusting(pairs.clone()), TIMEOUT).scrape().await;
            assert_eq!(
                outcome.map_err(|error| (error.reason(), error)).err().map(|error| error.0),
                expected,
                "{why}"
            );
        }
    }
}
