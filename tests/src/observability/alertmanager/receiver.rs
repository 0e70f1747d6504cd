//! A webhook that stores the notifications of Alertmanager.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::machine::cancel::Cancel;

/// One alert of one message.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The path of the webhook, which is the receiver's name.
    pub path: String,
    pub is_firing: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub at: Instant,
}

impl Notice {
    pub fn name(&self) -> &str {
        self.labels.get("alertname").map_or("", String::as_str)
    }
}

/// The part of Alertmanager 0.25's webhook message that tests check.
#[derive(Deserialize)]
struct Message {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    status: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

type Kept = Arc<Mutex<Vec<Notice>>>;

/// A server on a free port. Stopped on drop.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    kept: Kept,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let listener =
            runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("cannot find a free port")?;
        let (address, kept) = (listener.local_addr()?, Kept::default());
        let (stop, stopped) = oneshot::channel();
        let shared = kept.clone();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, kept, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the address of a webhook.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// Returns everything received so far.
    pub fn notices(&self) -> Vec<Notice> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a notification matches, for at most `limit`.
    pub fn wait_for(
        &self,
        limit: Duration,
        is_it: impl Fn(&Notice) -> bool,
    ) -> anyhow::Result<Option<Notice>> {
        Cancel::default().wait_for(limit, || Ok(self.notices().into_iter().find(&is_it)))
    }
}

async fn serve(listener: TcpListener, kept: Kept) {
    while let Ok((stream, _)) = listener.accept().await {
        let kept = kept.clone();
        let service = service_fn(move |request: Request<Incoming>| take(request, kept.clone()));
        tokio::spawn(async move {
            // A client that closes the connection has sent its message.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn take(request: Request<Incoming>, kept: Kept) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let message = match request.into_body().collect().await {
        Ok(body) => serde_json::from_slice::<Message>(&body.to_bytes()).map_err(anyhow::Error::from),
        Err(error) => Err(error.into()),
    };
    let mut response = Response::new(Full::default());
    match message {
        Ok(message) => {
            let notices = message.alerts.into_iter().map(|alert| Notice {
                path: path.clone(),
                is_firing: alert.status == "firing",
                labels: alert.labels,
                annotations: alert.annotations,
                at: Instant::now(),
            });
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(notices);
        }
        Err(error) => {
            eprintln!("cannot read the message of Alertmanager to {path}: {error:#}");
            *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
        }
    }
    Ok(response)
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            eprintln!("cannot stop the receiver: its thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::http::Endpoint;

    #[test]
    fn messages_are_stored_and_others_rejected() {
        let receiver = Receiver::start().unwrap();
        let endpoint = Endpoint::plain(receiver.address);
        let alert = r#"{"status": "firing", "labels": {"alertname": "A"}, "annotations": {}, "more": 1}"#;
        let sent = endpoint.post("/page", format!(r#"{{"version": "4", "alerts": [{alert}]}}"#)).unwrap();
        assert_eq!(sent.status, 200);
        assert_eq!(endpoint.post("/page", "no JSON".to_owned()).unwrap().status, 400);
        let found = receiver.wait_for(Duration::ZERO, |notice| notice.is_firing).unwrap().unwrap();
        assert_eq!((found.name(), found.path.as_str(), receiver.notices().len()), ("A", "page", 1));
    }
}
