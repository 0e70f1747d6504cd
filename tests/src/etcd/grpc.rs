//! The only gRPC call that the load makes: a put over HTTP/2, with the three lines of protobuf written by
//! hand.

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use crate::machine::http::{Endpoint, REQUEST_LIMIT};

/// The maximum size of the answer to a put, which takes a few tens of bytes.
const ANSWER_LIMIT: usize = 64 << 10;

/// An open connection for puts, one at a time.
#[derive(Debug)]
pub struct Puts {
    sender: SendRequest<Full<Bytes>>,
    url: String,
}

impl Puts {
    /// Connects. Requires a runtime, which drives the connection.
    pub async fn connect(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let stream = endpoint.stream(b"h2").await?;
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.context("cannot speak HTTP/2")?;
        // The caller that waits for a response on this connection receives its error.
        tokio::spawn(connection);
        Ok(Self { sender, url: format!("{}/etcdserverpb.KV/Put", endpoint.url()) })
    }

    /// Puts one value and waits until etcd has written it to disk.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        let request =
            Request::post(&self.url).header("content-type", "application/grpc").header("te", "trailers");
        let request = request.body(Full::new(message(key, value)))?;
        let exchange = async {
            self.sender.ready().await.context("cannot use a closed connection")?;
            let response = self.sender.send_request(request).await.context("cannot get a response")?;
            let headers = response.headers().clone();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("cannot read the response: {error}"))?;
            // An error without a body has its status in the headers.
            succeeded(body.trailers().unwrap_or(&headers))
        };
        timeout(REQUEST_LIMIT, exchange).await.context("cannot get a response in time")?
    }
}

fn succeeded(trailers: &HeaderMap) -> anyhow::Result<()> {
    let text = |name| trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match text("grpc-status").as_deref() {
        Some("0") => Ok(()),
        Some(status) => {
            bail!("etcd refused a put: status {status}: {}", text("grpc-message").unwrap_or_default())
        }
        None => bail!("etcd refused a put: no status"),
    }
}

/// Returns an uncompressed `PutRequest` (field 1: key, field 2: value) with its length prefix.
fn message(key: &[u8], value: &[u8]) -> Bytes {
    let mut request = Vec::with_capacity(key.len() + value.len() + 16);
    for (tag, bytes) in [(0x0a, key), (0x12, value)] {
        request.push(tag);
        push_varint(&mut request, bytes.len());
        request.extend_from_slice(bytes);
    }
    let length = u32::try_from(request.len()).expect("a value of the load is far below 4 GiB");
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.append(&mut request);
    framed.into()
}

/// Appends a varint: seven bits per byte, the lowest first.
fn push_varint(bytes: &mut Vec<u8>, mut number: usize) {
    let low = |number: usize| number.to_le_bytes()[0] & 0x7f;
    while number >= 0x80 {
        bytes.push(low(number) | 0x80);
        number >>= 7;
    }
    bytes.push(low(number));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_two_fields_behind_a_length() {
        assert_eq!(&message(b"k", b"vv")[..], b"\0\0\0\0\x07\x0a\x01k\x12\x02vv");
        let long = message(b"k", &[b'v'; 300]);
        assert_eq!(&long[..11], b"\0\0\0\x01\x32\x0a\x01k\x12\xac\x02", "300 is 0b10_0101100");
    }

    #[test]
    fn only_status_0_is_a_success() {
        let cases = [
            (&[("grpc-status", "0")][..], None, "done"),
            (
                &[("grpc-status", "8"), ("grpc-message", "too large")],
                Some("etcd refused a put: status 8: too large"),
                "etcd's own words",
            ),
            (&[], Some("etcd refused a put: no status"), "cut short"),
        ];
        for (trailers, expected, why) in cases {
            let mut map = HeaderMap::new();
            for &(name, value) in trailers {
                map.insert(name, value.parse().unwrap());
            }
            let error = succeeded(&map).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), expected, "{why}");
        }
    }
}
