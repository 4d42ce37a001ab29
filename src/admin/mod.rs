//! The operator's listener: `/healthz`, `/readyz`, `/metrics`, `/api/wakes`.
//!
//! Guarantees: it has its own socket, so it answers while the data plane is full; `/readyz` fails
//! from the first moment of a drain; `/healthz` succeeds as long as the process can answer at all.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::drain::Drain;
use crate::telemetry::{AccessSink, Metrics};
use crate::wake::{Ledger, LedgerEntry};

/// What the operator may see.
#[derive(Clone)]
pub struct Admin {
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// For its count of lost lines.
    pub access: Arc<AccessSink>,
    /// Who woke what.
    pub ledger: Arc<Ledger>,
    /// The phase.
    pub drain: Drain,
}

// === impl Admin ===

impl Admin {
    /// Serves until the drain has cut everything, so that it can be watched.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let cut = self.drain.cut().clone();
        let served = axum::serve(listener, self.routes()).into_future();
        cut.run_until_cancelled(served).await.unwrap_or(Ok(()))
    }

    fn routes(self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/api/wakes", get(wakes))
            .with_state(self)
    }
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match admin.drain.draining().is_cancelled() {
        false => (StatusCode::OK, "ready\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, admin.metrics.render(admin.access.dropped()))
}

/// Who woke what, the newest first.
async fn wakes(State(admin): State<Admin>) -> Json<Vec<LedgerEntry>> {
    Json(admin.ledger.entries())
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}
