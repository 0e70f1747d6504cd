//! What every request passes before a handler sees it, and every answer before a client does.

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
    config_reload::InForce,
    connection_timeouts::{Activity, Turn},
    limits::Limits,
    redaction::Secrets,
};

/// The way in, shared by all connections.
#[derive(Clone)]
pub struct Door {
    routes: TowerToHyperService<Router>,
    web: watch::Receiver<Arc<InForce>>,
    secrets: Secrets,
    answers: Arc<Semaphore>,
    limits: Limits,
}

impl Door {
    pub fn new(routes: Router, web: watch::Receiver<Arc<InForce>>, secrets: Secrets, limits: Limits) -> Self {
        let answers = Arc::new(Semaphore::new(limits.answers));
        Self { routes: TowerToHyperService::new(routes), web, secrets, answers, limits }
    }

    /// Answers a request; the answer's body keeps the turn until it is sent.
    pub async fn answer(&self, request: Request<Incoming>, activity: &Activity) -> Response {
        let mut turn = activity.begin();
        let in_force = self.web.borrow().clone();
        let mut response = self.judge(&in_force, request, &mut turn).await;
        for (name, value) in &in_force.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response.map(|body| Body::new(Kept { body, rest: Bytes::new(), _turn: turn }))
    }

    async fn judge(&self, in_force: &InForce, request: Request<Incoming>, turn: &mut Turn) -> Response {
        if in_force.rate.as_ref().is_some_and(|rate| !rate.allows(Instant::now())) {
            return refusal(StatusCode::TOO_MANY_REQUESTS);
        }
        if let Some(passwords) = &in_force.passwords {
            match passwords.admit(request.headers().get(header::AUTHORIZATION)).await {
                Admission::Granted => {}
                Admission::Denied => {
                    let challenge = [(header::WWW_AUTHENTICATE, "Basic")];
                    return (challenge, refusal(StatusCode::UNAUTHORIZED)).into_response();
                }
                Admission::Busy => return refusal(StatusCode::TOO_MANY_REQUESTS),
            }
        }
        // One that does not tell its length may be endless.
        if request.body().size_hint().upper().is_none_or(|length| length > self.limits.body_bytes) {
            let mut response = refusal(StatusCode::PAYLOAD_TOO_LARGE);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
        let Ok(permit) = self.answers.clone().try_acquire_owned() else {
            let retry = [(header::RETRY_AFTER, "1")];
            return (retry, refusal(StatusCode::SERVICE_UNAVAILABLE)).into_response();
        };
        turn.hold(permit);
        let answered = hyper::service::Service::call(&self.routes, request.map(Body::new)).await;
        let response = answered.unwrap_or_else(|never| match never {});
        self.secrets.withhold(response).await
    }
}

/// Says no more than the status.
fn refusal(status: StatusCode) -> Response {
    (status, format!("{}\n", status.canonical_reason().unwrap_or_default())).into_response()
}

/// How much of an answer is handed on at once. Over HTTP/2 hyper hands on a piece as soon as the client takes one byte more, and
/// what is handed on is no longer waited for.
const PIECE_BYTES: usize = 16 << 10;

/// The body of an answer in pieces, with the turn that lasts as long.
struct Kept {
    body: Body,
    /// What is left of the frame that is being handed on.
    rest: Bytes,
    _turn: Turn,
}

impl HttpBody for Kept {
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
