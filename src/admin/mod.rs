//! The operator's listener: health, metrics, the API and the dashboard.
//!
//! Guarantees: it has its own socket, so it answers while the data plane is full; `/readyz` fails
//! from the first moment of a drain; `/healthz` succeeds as long as the process can answer at all,
//! however many connections others have; these and `/metrics` need no token, the API does (see
//! `access`).
//!
//! What the gateway is and does comes through [`Operator`]; this room knows no engine.

mod access;
mod api;
mod dashboard;
mod events;
mod guard;
mod health;
mod operator;
mod serve;
mod state;
mod timeline;
mod view;
mod watchers;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

pub use self::operator::{Operator, Which};
pub use self::state::Admin;
pub use self::timeline::{Timeline, WakeNews};
pub use self::view::{
    BreakerView, CertificateView, Done, FailureView, HoldView, InstanceCounts, InstanceDetail,
    InstanceView, LeaseView, PlaneView, Problem, ProgressView, RouteSource, RouteView, StatusView,
};
pub use self::watchers::Watchers;

/// An answer is what its type says, whatever a browser would make of it.
async fn as_declared(mut response: Response) -> Response {
    let field = response.headers_mut().entry(X_CONTENT_TYPE_OPTIONS);
    field.or_insert(HeaderValue::from_static("nosniff"));
    response
}

// === impl Admin ===

impl Admin {
    /// Serves until the drain has cut everything, so that it can be watched.
    pub async fn serve(self, listener: TcpListener, tasks: TaskTracker) {
        let cut = self.drain.cut().clone();
        let (health, routes) = (self.clone().health(), self.routes());
        let serving = serve::serve(listener, routes, health, tasks, cut.clone());
        cut.run_until_cancelled(serving).await.unwrap_or(());
    }

    /// What is answered in any case.
    fn health(self) -> Router {
        health::routes().with_state(self)
    }

    fn routes(self) -> Router {
        let metrics = Router::new()
            .route("/metrics", get(health::metrics))
            .layer(from_fn_with_state(self.clone(), guard::open));
        let document = async || ([(CONTENT_TYPE, "application/json")], api::DOCUMENT);
        let api = api::routes()
            .route("/api/openapi.json", get(document))
            .layer(from_fn(access::own_origin))
            .layer(from_fn_with_state(self.clone(), guard::guard));
        let all = health::routes().merge(metrics).merge(api);
        let all = match self.dashboard {
            true => all.merge(dashboard::routes()),
            false => all,
        };
        all.fallback(api::unknown)
            .method_not_allowed_fallback(api::other_method)
            .layer(map_response(as_declared))
            .with_state(self)
    }
}
