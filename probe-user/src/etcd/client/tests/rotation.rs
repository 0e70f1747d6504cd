//! Certificate rotation while a client has a connection.

use std::fs;

use super::*;

/// Scrapes once and returns the number of connections so far.
async fn scrapes(client: &mut Client, count: &AtomicUsize) -> usize {
    client.scrape().await.expect("no scrape is lost");
    count.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_rotation_is_applied_once_it_is_complete() {
    let pki = Pki::new("rotated");
    let server = pki.issue("server", "127.0.0.1", |_| {});
    let pair = pki.issue("client", "client", |_| {});
    let (port, count) = local(Some(pki.server(&server, true)), Serves::Metrics).await;
    let credentials = pki.trusting(vec![pair.clone()]);
    let mut client = client(&format!("https://127.0.0.1:{port}"), &credentials, TIMEOUT);
    assert_eq!(scrapes(&mut client, &count).await, 1);
    assert_eq!(scrapes(&mut client, &count).await, 1, "nothing has changed");

    let next = pki.issue("next", "client", |_| {});
    fs::rename(&next.certificate.path, &pair.certificate.path).unwrap();
    assert_eq!(
        scrapes(&mut client, &count).await,
        1,
        "the key belongs to another certificate, so the old connection stays"
    );
    fs::rename(&next.key.path, &pair.key.path).unwrap();
    assert_eq!(scrapes(&mut client, &count).await, 2, "certificate and key match");
    assert_eq!(scrapes(&mut client, &count).await, 2, "no further connection");

    let ca = fs::read(pki.directory.join("ca.pem")).unwrap();
    let stranger = Pki::new("stranger-ca");
    fs::copy(stranger.directory.join("ca.pem"), pki.directory.join("ca.pem")).unwrap();
    assert_eq!(
        scrapes(&mut client, &count).await,
        3,
        "the new authority does not verify the server, so the old connection stays"
    );
    fs::write(pki.directory.join("ca.pem"), ca).unwrap();
    let connections = scrapes(&mut client, &count).await;
    assert_eq!(scrapes(&mut client, &count).await, connections, "the authority is back");
}

#[tokio::test]
async fn a_client_without_a_connection_rereads_the_files() {
    let pki = Pki::new("renewed");
    let server = pki.issue("server", "127.0.0.1", |_| {});
    let pair = pki.issue("client", "client", expired);
    let (port, _) = local(Some(pki.server(&server, true)), Serves::Metrics).await;
    let mut client = client(&format!("https://127.0.0.1:{port}"), &pki.trusting(vec![pair]), TIMEOUT);
    assert_eq!(client.scrape().await.expect_err("expired").reason(), Reason::TlsClientRejected);
    assert_eq!(client.presented(), None, "not connected");
    pki.issue("client", "client", |_| {});
    client.scrape().await.unwrap();
    let presented = client.presented().expect("connected");
    assert_eq!(presented.not_after_s, 67_090_118_400, "rcgen's default: the year 4096");
}

#[tokio::test]
async fn a_connection_closed_by_the_server_is_replaced_with_the_current_files() {
    let pki = Pki::new("closed");
    let server = pki.issue("server", "127.0.0.1", |_| {});
    let pair = pki.issue("client", "client", |_| {});
    let (port, count) = local(Some(pki.server(&server, true)), Serves::MetricsOnce).await;
    let credentials = pki.trusting(vec![pair]);
    let mut client = client(&format!("https://127.0.0.1:{port}"), &credentials, TIMEOUT);
    for connections in 1..=3 {
        pki.issue("client", "client", |_| {});
        assert_eq!(scrapes(&mut client, &count).await, connections);
    }
}
