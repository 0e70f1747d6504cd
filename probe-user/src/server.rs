//! The HTTP side: metrics, health, the report. Read-only, loopback by default.
//!
//! A request comes in through `connections` and `door`, which hold it against the `limits` and the web configuration in force
//! (`web_config` reads it, `web` keeps it up to date); handlers know of none of that.

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
    config_reload::{Reloaded, Web},
    limits::Limits,
    middleware::Door,
    redaction::{Secrets, spellings},
};
use crate::{
    monitor::{SharedMonitor, TESTED_EVERY, lock, on_demand},
    output::{
        metrics::{self, Format},
        report::{
            self, Report,
            slow_report::{self, OperationReport},
        },
    },
};

/// What the handlers read.
#[derive(Clone)]
pub struct AppState {
    pub monitor: SharedMonitor,
    /// The key of `--key`, whose path no response may contain.
    pub operator_key: Option<Arc<Path>>,
    pub reloaded: Reloaded,
}

/// Serves until `stop` ends; requests under way are answered first.
pub async fn serve(listener: TcpListener, served: AppState, web: Web, stop: impl Future<Output = ()>) {
    let limits = Limits::default();
    let in_force = web.subscribe();
    let routes = router(&served);
    let secrets = Secrets::new(move || key_paths(&served));
    let door = Door::new(routes, in_force.clone(), secrets, limits);
    tokio::select! {
        () = connections::serve(listener, door, in_force, limits, stop) => {}
        () = web.keep_up_to_date() => {}
    }
}

/// Returns the paths of all keys: those of members, in their own file systems, and the operator's.
fn key_paths(served: &AppState) -> BTreeSet<String> {
    let monitor = lock(&served.monitor);
    let endpoints = monitor.members().flat_map(|tracked| &tracked.member().endpoints);
    let pairs = endpoints.flat_map(|endpoint| &endpoint.credentials.client);
    let keys = pairs.map(|pair| pair.key.path.as_path()).chain(served.operator_key.as_deref());
    keys.flat_map(|path| spellings(path)).collect()
}

/// A path, and what answers there.
type Route = (&'static str, fn() -> MethodRouter<AppState>);

/// Every route: a test walks them as a stranger, and can miss none.
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

fn router(served: &AppState) -> Router {
    let routes =
        ROUTES.into_iter().fold(Router::new(), |router, (path, handler)| router.route(path, handler()));
    routes.with_state(served.clone())
}

async fn landing_page() -> Html<&'static str> {
    Html(include_str!("server/landing.html"))
}

async fn serve_metrics(State(served): State<AppState>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    let timeout = headers.get("x-prometheus-scrape-timeout-seconds").and_then(|value| value.to_str().ok());
    on_demand::refresh(&served.monitor, on_demand::patience(timeout)).await;
    let mut snapshot = lock(&served.monitor).snapshot();
    snapshot.web_config_reloaded = served.reloaded.get();
    match metrics::encode(snapshot, format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode metrics: {error}\n")).into_response()
        }
    }
}

/// The process runs and answers; whether it measures is what `/-/ready` tells.
async fn healthy() -> &'static str {
    "healthy\n"
}

/// Attached, the self-test passed within the last seconds, and every member that can be cross-checked agrees.
async fn ready(State(served): State<AppState>) -> Response {
    let report = {
        let mut monitor = lock(&served.monitor);
        monitor.run_self_test(TESTED_EVERY);
        report::report(&monitor.assess())
    };
    match not_ready(&report) {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

/// Returns why the probe's figures cannot be trusted, if so. An etcd that cannot be scraped is no fault of the probe's,
/// and an event that the kernel is known to have skipped is a counted miss.
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

async fn serve_report(State(served): State<AppState>) -> Json<Report> {
    Json(report::report(&lock(&served.monitor).assess()))
}

/// The last thousand slow operations, the newest first.
async fn serve_slow(State(served): State<AppState>) -> Json<Vec<OperationReport>> {
    let mut monitor = lock(&served.monitor);
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
