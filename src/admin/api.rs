//! The operator's API: what is, and what can be done about it. `GET /api/openapi.json` describes
//! it.
//!
//! Guarantees: what is served is what the document says, since both come from the same lines; a GET
//! changes nothing; errors are problem JSON with a stable code.

#![allow(
    unused_qualifications,
    reason = "utoipa's own, in what it makes of the handlers"
)]

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::StatusCode;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::{Info, OpenApi};
use utoipa::{IntoParams, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::events;
use super::operator::Which;
use super::state::Admin;
use super::view::{Done, InstanceDetail, InstanceView, Problem, RouteView, StatusView};
use crate::wake::LedgerEntry;

/// Routes in one answer, unless it is asked for fewer or more.
const ROUTES: usize = 1000;

#[derive(utoipa::OpenApi)]
struct Document;

/// The routes below `/api`, and the document about them.
pub(super) fn routes() -> (Router<Admin>, OpenApi) {
    let mut document = Document::openapi();
    document.info = Info::new("wakegate", env!("CARGO_PKG_VERSION"));
    document.info.description = Some(
        "The gateway's operator API. With `admin.token_file` every call needs it as a bearer token; \
         without, calls are answered on loopback addresses alone."
            .to_owned(),
    );
    OpenApiRouter::with_openapi(document)
        .routes(routes!(status))
        .routes(routes!(list_routes))
        .routes(routes!(instances))
        .routes(routes!(instance))
        .routes(routes!(wake))
        .routes(routes!(standby))
        .routes(routes!(reset_breaker))
        .routes(routes!(wakes))
        .routes(routes!(config))
        .routes(routes!(reload))
        .routes(routes!(drain))
        .routes(routes!(events::events))
        .split_for_parts()
}

/// Which instance.
#[derive(Debug, Deserialize, IntoParams)]
struct Where {
    /// The name of its control plane; the first that has it when absent.
    hypeman: Option<String>,
}

/// Which routes.
#[derive(Debug, Deserialize, IntoParams)]
struct Filter {
    /// Only those whose host or instance has this text in it.
    #[serde(default)]
    filter: String,
    /// At most so many.
    limit: Option<usize>,
}

type Client = axum::Extension<ConnectInfo<SocketAddr>>;

fn which(name: String, place: Where, client: &Client) -> Which {
    Which {
        name,
        hypeman: place.hypeman,
        client: client.0.0.ip(),
    }
}

/// The gateway as a whole.
#[utoipa::path(get, path = "/api/status", responses((status = 200, body = StatusView)))]
async fn status(State(admin): State<Admin>) -> Json<StatusView> {
    Json(admin.operator.status())
}

/// Its routes.
#[utoipa::path(get, path = "/api/routes", params(Filter), responses((status = 200, body = [RouteView])))]
async fn list_routes(
    State(admin): State<Admin>,
    Query(Filter { filter, limit }): Query<Filter>,
) -> Json<Vec<RouteView>> {
    Json(admin.operator.routes(&filter, limit.unwrap_or(ROUTES)))
}

/// Every instance that the gateway knows of.
#[utoipa::path(get, path = "/api/instances", responses((status = 200, body = [InstanceView])))]
async fn instances(State(admin): State<Admin>) -> Json<Vec<InstanceView>> {
    Json(admin.operator.instances())
}

/// One instance and its last wakes.
#[utoipa::path(
    get,
    path = "/api/instances/{name}",
    params(("name" = String, Path, description = "Its name, id, or the beginning of its id"), Where),
    responses((status = 200, body = InstanceDetail), (status = 404, body = Problem)),
)]
async fn instance(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(place): Query<Where>,
    client: Client,
) -> Result<Json<InstanceDetail>, Problem> {
    let found = admin.operator.instance(&which(name, place, &client));
    let unknown = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "instance_not_found",
            "The gateway knows no such instance.",
        )
    };
    found.map(Json).ok_or_else(unknown)
}

/// Wakes an instance and waits until it is Running.
#[utoipa::path(
    post,
    path = "/api/instances/{name}/wake",
    params(("name" = String, Path, description = "Its name, id, or the beginning of its id"), Where),
    responses((status = 200, body = Done), (status = "4XX", body = Problem), (status = "5XX", body = Problem)),
)]
async fn wake(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(place): Query<Where>,
    client: Client,
) -> Result<Json<Done>, Problem> {
    let done = admin.operator.wake(which(name, place, &client)).await;
    done.map(Json)
}

/// Puts an instance to sleep.
#[utoipa::path(
    post,
    path = "/api/instances/{name}/standby",
    params(("name" = String, Path, description = "Its name, id, or the beginning of its id"), Where),
    responses((status = 200, body = Done), (status = "4XX", body = Problem), (status = "5XX", body = Problem)),
)]
async fn standby(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(place): Query<Where>,
    client: Client,
) -> Result<Json<Done>, Problem> {
    let done = admin.operator.standby(which(name, place, &client)).await;
    done.map(Json)
}

/// Forgets that an instance's recent wakes failed.
#[utoipa::path(
    post,
    path = "/api/instances/{name}/reset-breaker",
    params(("name" = String, Path, description = "Its name, id, or the beginning of its id"), Where),
    responses((status = 200, body = Done), (status = "4XX", body = Problem)),
)]
async fn reset_breaker(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(place): Query<Where>,
    client: Client,
) -> Result<Json<Done>, Problem> {
    let which = which(name, place, &client);
    admin.operator.reset_breaker(which).await.map(Json)
}

/// Who woke what, the newest first.
#[utoipa::path(get, path = "/api/wakes", responses((status = 200, body = [LedgerEntry])))]
async fn wakes(State(admin): State<Admin>) -> Json<Vec<LedgerEntry>> {
    Json(admin.operator.wakes())
}

/// The configuration in force, secrets left out.
#[utoipa::path(get, path = "/api/config", responses((status = 200, body = Value)))]
async fn config(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.operator.config())
}

/// Loads the configuration again: all of it, or nothing.
#[utoipa::path(
    post,
    path = "/api/reload",
    responses((status = 204), (status = "4XX", body = Problem)),
)]
async fn reload(State(admin): State<Admin>) -> Result<StatusCode, Problem> {
    admin.operator.reload().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes no more work, finishes what is under way, and ends; as SIGTERM does.
#[utoipa::path(post, path = "/api/drain", responses((status = 202)))]
async fn drain(State(admin): State<Admin>) -> StatusCode {
    admin.operator.drain();
    StatusCode::ACCEPTED
}
