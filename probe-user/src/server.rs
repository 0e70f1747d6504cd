//! The HTTP server: metrics, health, the report. Read-only, on loopback by default.
//!
//! Each request passes `connections` and `middleware`, which apply the `limits` and the active web
//! configuration (`web_config` parses it, `config_reload` reloads it). Handlers do not depend on either.

mod listen;
mod web_error;
mod connection_timeouts;
mod connections;
mod middleware;
mod limits;
mod auth;
mod rate_limit;
mod redaction;
mod server_tls;
pub mod config_reload;
pub mod web_config;
pub mod service_manager;

use std::{collections::BTreeSet, future::Future, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{MethodRouter, get},
};
use tokio::net::TcpListener;

pub use listen::{ListenError, bind};
pub use web_error::WebError;

pub use self::auth::credentials;
use self::{
    config_reload::{ConfigReloader, LastReload},
    limits::Limits,
    middleware::Gate,
    redaction::{Redactor, encodings},
};
use crate::{
    monitor::{SELF_TEST_INTERVAL, SharedMonitor, lock, on_demand},
    output::{
        metrics::{self, Format},
        report::{
            self, Report,
            slow_report::{self, OperationReport},
        },
    },
};

/// State of the handlers.
#[derive(Clone)]
pub struct AppState {
    pub monitor: SharedMonitor,
    /// Path of the key of `--key`, which no response may contain.
    pub operator_key: Option<Arc<Path>>,
    pub last_reload: LastReload,
}

/// Serves until `stop` completes; requests in flight are answered first.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    reloader: ConfigReloader,
    stop: impl Future<Output = ()>,
) {
    let limits = Limits::default();
    let active = reloader.subscribe();
    let routes = router(&state);
    let redactor = Redactor::new(move || key_paths(&state));
    let gate = Gate::new(routes, active.clone(), redactor, limits);
    tokio::select! {
        () = connections::serve(listener, gate, active, limits, stop) => {}
        () = reloader.run() => {}
    }
}

/// Returns the paths of all private keys: the members', in their own file systems, and the operator's.
fn key_paths(state: &AppState) -> BTreeSet<String> {
    let monitor = lock(&state.monitor);
    let endpoints = monitor.members().flat_map(|member| &member.member().endpoints);
    let pairs = endpoints.flat_map(|endpoint| &endpoint.credentials.client);
    let keys = pairs.map(|pair| pair.key.path.as_path()).chain(state.operator_key.as_deref());
    keys.flat_map(encodings).collect()
}

/// A path and its handler.
type Route = (&'static str, fn() -> MethodRouter<AppState>);

/// Every route. A test requests all of them as an anonymous client.
const ROUTES: [Route; 7] = [
    ("/", || get(landing_page)),
    ("/metrics", || get(serve_metrics)),
    ("/-/healthy", || get(healthy)),
    ("/healthz", || get(healthy)),
    ("/-/ready", || get(ready)),
    ("/api/v1/report", || get(serve_report)),
    ("/api/v1/slow", || get(serve_slow)),
];

/// Returns the path of every route.
pub fn paths() -> impl Iterator<Item = &'static str> {
    ROUTES.into_iter().map(|(path, _)| path)
}

fn router(state: &AppState) -> Router {
    let routes =
        ROUTES.into_iter().fold(Router::new(), |router, (path, handler)| router.route(path, handler()));
    routes.with_state(state.clone())
}

async fn landing_page() -> Html<&'static str> {
    Html(include_str!("server/landing.html"))
}

async fn serve_metrics(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    let timeout = headers.get("x-prometheus-scrape-timeout-seconds").and_then(|value| value.to_str().ok());
    on_demand::refresh(&state.monitor, on_demand::wait_limit(timeout)).await;
    let mut snapshot = lock(&state.monitor).snapshot();
    snapshot.web_config_reloaded = state.last_reload.get();
    match metrics::encode(snapshot, format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode metrics: {error}\n")).into_response()
        }
    }
}

/// Reports that the process runs and answers. `/-/ready` reports whether it measures.
async fn healthy() -> &'static str {
    "healthy\n"
}

/// Reports ready if the probe is attached, the self-test passed within the last seconds, and every member
/// that can be cross-checked agrees.
async fn ready(State(state): State<AppState>) -> Response {
    let report = {
        let mut monitor = lock(&state.monitor);
        monitor.run_self_test(SELF_TEST_INTERVAL);
        report::report(&monitor.assess())
    };
    match not_ready(&report) {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

/// Returns why the probe's figures cannot be trusted, if so. An etcd that cannot be scraped does not make the
/// probe unready, and an event that the kernel is known to have skipped is a counted miss.
fn not_ready(report: &Report) -> Option<String> {
    let self_test_failure = report.self_test_failure.clone();
    self_test_failure.or_else(|| disagreement(report))
}

fn disagreement(report: &Report) -> Option<String> {
    report.members.iter().find_map(|member| {
        let differs = |difference: i64| difference.unsigned_abs() > report.skipped_runs;
        let disagreeing = member.figures.iter().find(|figure| differs(figure.crosscheck.difference));
        disagreeing.map(|figure| {
            let difference = figure.crosscheck.difference;
            format!("{}: {} differs by {difference} events from etcd", member.member, figure.metric)
        })
    })
}

async fn serve_report(State(state): State<AppState>) -> Json<Report> {
    Json(report::report(&lock(&state.monitor).assess()))
}

/// Returns the last thousand slow operations, the newest first.
async fn serve_slow(State(state): State<AppState>) -> Json<Vec<OperationReport>> {
    let mut monitor = lock(&state.monitor);
    monitor.drain_sampler();
    Json(
        monitor
            .slow_log()
            .since(0)
            .rev()
            .map(|logged| slow_report::describe(logged, |id| monitor.cgroup(id)))
            .collect(),
    )
}
