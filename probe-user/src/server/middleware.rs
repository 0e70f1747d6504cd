//! Middleware between connections and handlers: rate limit, authentication, body limit, load shedding,
//! redaction.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};

use super::{
    auth::Admission,
    config_reload::ActiveConfig,
    connection_timeouts::{ConnectionState, RequestGuard},
    limits::Limits,
    redaction::Redactor,
};

/// The service in front of the router, shared by all connections.
#[derive(Clone)]
pub struct Gate {
    routes: TowerToHyperService<Router>,
    config: watch::Receiver<Arc<ActiveConfig>>,
    redactor: Redactor,
    answers: Arc<Semaphore>,
    limits: Limits,
}

impl Gate {
    pub fn new(
        routes: Router,
        config: watch::Receiver<Arc<ActiveConfig>>,
        redactor: Redactor,
        limits: Limits,
    ) -> Self {
        let answers = Arc::new(Semaphore::new(limits.answers));
        Self { routes: TowerToHyperService::new(routes), config, redactor, answers, limits }
    }

    /// Answers a request. The response body owns the guard until it is sent.
    pub async fn call(&self, request: Request<Incoming>, state: &ConnectionState) -> Response {
        let mut guard = state.begin();
        let active = self.config.borrow().clone();
        let mut response = self.admit(&active, request, &mut guard).await;
        for (name, value) in &active.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response.map(|body| Body::new(GuardedBody { body, rest: Bytes::new(), _guard: guard }))
    }

    async fn admit(
        &self,
        active: &ActiveConfig,
        request: Request<Incoming>,
        guard: &mut RequestGuard,
    ) -> Response {
        if active.rate.as_ref().is_some_and(|rate| !rate.allows(Instant::now())) {
            return refusal(StatusCode::TOO_MANY_REQUESTS);
        }
        if let Some(passwords) = &active.passwords {
            match passwords.admit(request.headers().get(header::AUTHORIZATION)).await {
                Admission::Granted => {}
                Admission::Denied => {
                    let challenge = [(header::WWW_AUTHENTICATE, "Basic")];
                    return (challenge, refusal(StatusCode::UNAUTHORIZED)).into_response();
                }
                Admission::Busy => return refusal(StatusCode::TOO_MANY_REQUESTS),
            }
        }
        // A body of unknown length may be endless.
        if request.body().size_hint().upper().is_none_or(|length| length > self.limits.body_bytes) {
            let mut response = refusal(StatusCode::PAYLOAD_TOO_LARGE);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
        let Ok(permit) = self.answers.clone().try_acquire_owned() else {
            let retry = [(header::RETRY_AFTER, "1")];
            return (retry, refusal(StatusCode::SERVICE_UNAVAILABLE)).into_response();
        };
        guard.attach_permit(permit);
        let answered = hyper::service::Service::call(&self.routes, request.map(Body::new)).await;
        let response = answered.unwrap_or_else(|never| match never {});
        self.redactor.redact(response).await
    }
}

/// Returns a response with only the status.
fn refusal(status: StatusCode) -> Response {
    (status, format!("{}\n", status.canonical_reason().unwrap_or_default())).into_response()
}

/// Size of the frames that are passed to hyper. Over HTTP/2 hyper accepts a frame as soon as the client's
/// window has one byte, and the deadline does not cover data that hyper has accepted.
const PIECE_BYTES: usize = 16 << 10;

/// A response body in pieces that owns the guard of its request.
struct GuardedBody {
    body: Body,
    /// The rest of the current frame.
    rest: Bytes,
    _guard: RequestGuard,
}

impl HttpBody for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context))
                .map(|frame| frame.map(Frame::into_data))
            {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
