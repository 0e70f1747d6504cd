//! The HTTP side: metrics, health, the report. Read-only, loopback by default.

use std::{future::Future, sync::Arc};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{
    config::Options,
    metrics::{self, Format, Snapshot},
    monitor::{Shared, TESTED_EVERY, freshness, lock},
    report::{
        self, Report,
        slow::{self, OperationReport},
    },
};

/// What the handlers read.
#[derive(Clone)]
pub struct Served {
    pub monitor: Shared,
    pub options: Arc<Options>,
}

/// Serves until `stop` ends; requests under way are answered first.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    served: Served,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    axum::serve(listener, router(served)).with_graceful_shutdown(stop).await.context("cannot serve HTTP")
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/", get(landing_page))
        .route("/metrics", get(serve_metrics))
        .route("/-/healthy", get(healthy))
        .route("/healthz", get(healthy))
        .route("/-/ready", get(ready))
        .route("/api/v1/report", get(serve_report))
        .route("/api/v1/slow", get(serve_slow))
        .with_state(served)
}

async fn landing_page() -> Html<&'static str> {
    Html(include_str!("server/landing.html"))
}

async fn serve_metrics(State(served): State<Served>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    let timeout = headers.get("x-prometheus-scrape-timeout-seconds").and_then(|value| value.to_str().ok());
    freshness::refresh(&served.monitor, freshness::patience(timeout)).await;
    let snapshot = Snapshot::of(&lock(&served.monitor), &served.options);
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
async fn ready(State(served): State<Served>) -> Response {
    let report = {
        let mut monitor = lock(&served.monitor);
        monitor.test_eyesight(TESTED_EVERY);
        report::report(&monitor, &served.options)
    };
    match not_ready(&report) {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

/// Returns why the probe's figures cannot be trusted, if so. An etcd that cannot be scraped is no fault of the probe's,
/// and an event that the kernel is known to have skipped is a counted miss.
fn not_ready(report: &Report) -> Option<String> {
    let blindness = report.self_test_failure.clone();
    blindness.or_else(|| disagreement(report))
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

async fn serve_report(State(served): State<Served>) -> Json<Report> {
    Json(report::report(&lock(&served.monitor), &served.options))
}

/// The last thousand slow operations, the newest first.
async fn serve_slow(State(served): State<Served>) -> Json<Vec<OperationReport>> {
    let mut monitor = lock(&served.monitor);
    monitor.absorb();
    Json(monitor.slow_log().since(0).rev().map(|logged| slow::tell(logged, &monitor)).collect())
}
