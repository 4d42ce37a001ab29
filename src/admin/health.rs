//! What orchestrators and Prometheus ask; open to whoever can connect, and says nothing that is
//! worth hiding.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::state::Admin;

/// `/healthz` and `/readyz`.
pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match admin.drain.draining().is_cancelled() {
        false if !admin.operator.is_ready() => (
            StatusCode::SERVICE_UNAVAILABLE,
            "nothing is known of the fleet yet: its directory does not answer\n",
        ),
        false => (StatusCode::OK, "ready\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

pub(super) async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, admin.metrics.render(&admin.operator.readings()))
}
