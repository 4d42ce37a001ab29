//! The operator's API: what is, and what can be done about it. `GET /api/openapi.json` describes
//! it.
//!
//! Guarantees: what is served is what the document says (a test makes it of the handlers and
//! compares); a GET changes nothing; errors are problem JSON with a stable code.

#![cfg_attr(
    test,
    allow(
        unused_qualifications,
        reason = "utoipa's own, in what it makes of the handlers"
    )
)]

use std::fmt::Display;
use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
#[cfg(test)]
use utoipa::IntoParams;

use super::events;
use super::operator::Which;
use super::state::Admin;
use super::view::{
    CertificateView, Done, HoldView, InstanceDetail, InstanceView, Problem, RouteView, StatusView,
};
use crate::wake::LedgerEntry;

/// Routes in one answer, unless it is asked for fewer or more.
const ROUTES: usize = 1000;

/// The document about the routes. A file of the source, so that the shipped program does not carry
/// the means to make it.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// The router, and for tests what is in it.
macro_rules! routes {
    ($($method:ident $path:literal $handler:path;)+) => {
        /// The routes below `/api`.
        pub(super) fn routes() -> Router<Admin> {
            Router::new()$(.route($path, axum::routing::$method($handler)))+
        }

        #[cfg(test)]
        const SERVED: &[(&str, &str)] = &[$((stringify!($method), $path)),+];
    };
}

routes! {
    get "/api/status" status;
    get "/api/routes" list_routes;
    get "/api/instances" instances;
    get "/api/instances/{name}" instance;
    post "/api/instances/{name}/wake" wake;
    post "/api/instances/{name}/standby" standby;
    post "/api/instances/{name}/reset-breaker" reset_breaker;
    get "/api/wakes" wakes;
    get "/api/certificates" certificates;
    get "/api/fleet" fleet;
    get "/api/holds" holds;
    get "/api/config" config;
    post "/api/reload" reload;
    post "/api/drain" drain;
    get "/api/events" events::events;
}

/// Which instance.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(IntoParams), into_params(parameter_in = Query))]
struct Where {
    /// The name of its control plane; the first that has it when absent.
    hypeman: Option<String>,
}

/// Whether the workload is overridden.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(IntoParams), into_params(parameter_in = Query))]
struct Force {
    /// Whether it is put to sleep although the workload, by its hook `before_standby`, wants to go on.
    #[serde(default)]
    force: bool,
}

/// Which routes.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(IntoParams), into_params(parameter_in = Query))]
struct Filter {
    /// Only those whose host or instance has this text in it.
    #[serde(default)]
    filter: String,
    /// At most so many.
    limit: Option<usize>,
}

/// Which wakes.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(IntoParams), into_params(parameter_in = Query))]
struct WhichWakes {
    /// Only those after the wake with this id; all, when that one is not remembered.
    after: Option<String>,
    /// At most so many, the newest.
    limit: Option<usize>,
}

/// A part of a request as an extractor reads it; what it cannot read is a problem as all others.
struct Asked<E>(E);

impl<S, E> FromRequestParts<S> for Asked<E>
where
    S: Send + Sync,
    E: FromRequestParts<S>,
    E::Rejection: Display,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = E::from_request_parts(parts, state).await;
        read.map(Self)
            .map_err(|why| Problem::new(StatusCode::BAD_REQUEST, "bad_request", format!("{why}.")))
    }
}

type Client = axum::Extension<ConnectInfo<SocketAddr>>;

fn which(name: String, place: Where, client: &Client) -> Which {
    Which {
        name,
        hypeman: place.hypeman,
        client: client.0.0.ip(),
    }
}

/// The answer where there is nothing.
pub(super) async fn unknown() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_path",
        "There is nothing at this path; /api/openapi.json lists what there is.",
    )
}

/// The answer to another method than the path has.
pub(super) async fn other_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "The path has other methods, which `Allow` says.",
    )
}

/// The gateway as a whole.
#[cfg_attr(test, utoipa::path(get, path = "/api/status", responses((status = 200, body = StatusView))))]
async fn status(State(admin): State<Admin>) -> Json<StatusView> {
    Json(admin.operator.status())
}

/// Its routes.
#[cfg_attr(test, utoipa::path(get, path = "/api/routes", params(Filter), responses((status = 200, body = [RouteView]))))]
async fn list_routes(
    State(admin): State<Admin>,
    Asked(Query(Filter { filter, limit })): Asked<Query<Filter>>,
) -> Json<Vec<RouteView>> {
    Json(admin.operator.routes(&filter, limit.unwrap_or(ROUTES)))
}

/// Every instance that the gateway knows of.
#[cfg_attr(test, utoipa::path(get, path = "/api/instances", responses((status = 200, body = [InstanceView]))))]
async fn instances(State(admin): State<Admin>) -> Json<Vec<InstanceView>> {
    Json(admin.operator.instances())
}

/// One instance and its last wakes.
#[cfg_attr(test, utoipa::path(
    get,
    path = "/api/instances/{name}",
    params(("name" = String, Path, description = "Its name or its full id"), Where),
    responses((status = 200, body = InstanceDetail), (status = 404, body = Problem)),
))]
async fn instance(
    State(admin): State<Admin>,
    Asked(Path(name)): Asked<Path<String>>,
    Asked(Query(place)): Asked<Query<Where>>,
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
#[cfg_attr(test, utoipa::path(
    post,
    path = "/api/instances/{name}/wake",
    params(("name" = String, Path, description = "Its name or its full id"), Where),
    responses((status = 200, body = Done), (status = "4XX", body = Problem), (status = "5XX", body = Problem)),
))]
async fn wake(
    State(admin): State<Admin>,
    Asked(Path(name)): Asked<Path<String>>,
    Asked(Query(place)): Asked<Query<Where>>,
    client: Client,
) -> Result<Json<Done>, Problem> {
    let done = admin.operator.wake(which(name, place, &client)).await;
    done.map(Json)
}

/// Puts an instance to sleep.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/api/instances/{name}/standby",
    params(("name" = String, Path, description = "Its name or its full id"), Where, Force),
    responses((status = 200, body = Done), (status = "4XX", body = Problem), (status = "5XX", body = Problem)),
))]
async fn standby(
    State(admin): State<Admin>,
    Asked(Path(name)): Asked<Path<String>>,
    Asked(Query(place)): Asked<Query<Where>>,
    Asked(Query(Force { force })): Asked<Query<Force>>,
    client: Client,
) -> Result<Json<Done>, Problem> {
    let done = admin
        .operator
        .standby(which(name, place, &client), force)
        .await;
    done.map(Json)
}

/// Forgets that an instance's recent wakes failed.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/api/instances/{name}/reset-breaker",
    params(("name" = String, Path, description = "Its name or its full id"), Where),
    responses((status = 200, body = Done), (status = "4XX", body = Problem)),
))]
async fn reset_breaker(
    State(admin): State<Admin>,
    Asked(Path(name)): Asked<Path<String>>,
    Asked(Query(place)): Asked<Query<Where>>,
    client: Client,
) -> Result<Json<Done>, Problem> {
    let which = which(name, place, &client);
    admin.operator.reset_breaker(which).await.map(Json)
}

/// Who woke what, where the time went and why it failed, the newest first.
#[cfg_attr(test, utoipa::path(get, path = "/api/wakes", params(WhichWakes), responses((status = 200, body = [LedgerEntry]))))]
async fn wakes(
    State(admin): State<Admin>,
    Asked(Query(WhichWakes { after, limit })): Asked<Query<WhichWakes>>,
) -> Json<Vec<LedgerEntry>> {
    let mut wakes = admin.operator.wakes(after.as_deref());
    wakes.truncate(limit.unwrap_or(usize::MAX));
    Json(wakes)
}

/// The certificates that come by ACME: when they expire, when the next is ordered, and why the last
/// order failed.
#[cfg_attr(test, utoipa::path(get, path = "/api/certificates", responses((status = 200, body = [CertificateView]))))]
async fn certificates(State(admin): State<Admin>) -> Json<Vec<CertificateView>> {
    Json(admin.operator.certificates())
}

/// The fleet's directory as it is known here: revision, age, members, claims, and routes that are gone
/// and stay in force until that is accepted.
#[cfg_attr(test, utoipa::path(get, path = "/api/fleet", responses((status = 200, body = Value), (status = 404, body = Problem))))]
async fn fleet(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let none = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no_fleet",
            "The gateway is in no fleet.",
        )
    };
    admin.operator.fleet().map(Json).ok_or_else(none)
}

/// The holds by which workloads keep their instances awake, by instance and task.
#[cfg_attr(test, utoipa::path(get, path = "/api/holds", responses((status = 200, body = [HoldView]))))]
async fn holds(State(admin): State<Admin>) -> Json<Vec<HoldView>> {
    Json(admin.operator.holds())
}

/// The configuration in force, secrets left out.
#[cfg_attr(test, utoipa::path(get, path = "/api/config", responses((status = 200, body = Value))))]
async fn config(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.operator.config())
}

/// Loads the configuration again: all of it, or nothing.
#[cfg_attr(test, utoipa::path(
    post,
    path = "/api/reload",
    responses((status = 204), (status = "4XX", body = Problem)),
))]
async fn reload(State(admin): State<Admin>) -> Result<StatusCode, Problem> {
    admin.operator.reload().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes no more work, finishes what is under way, and ends; as SIGTERM does.
#[cfg_attr(test, utoipa::path(post, path = "/api/drain", responses((status = 202))))]
async fn drain(State(admin): State<Admin>) -> StatusCode {
    admin.operator.drain();
    StatusCode::ACCEPTED
}

#[cfg(test)]
mod tests {
    use utoipa::OpenApi as _;
    use utoipa::openapi::Info;

    use super::*;

    #[derive(utoipa::OpenApi)]
    #[openapi(paths(
        status,
        list_routes,
        instances,
        instance,
        wake,
        standby,
        reset_breaker,
        certificates,
        fleet,
        holds,
        wakes,
        config,
        reload,
        drain,
        events::events
    ))]
    struct Document;

    fn document() -> Value {
        let mut document = Document::openapi();
        document.info = Info::new("wakegate", env!("CARGO_PKG_VERSION"));
        document.info.description = Some(
            "The gateway's operator API. With `admin.token_file` every call needs it as a bearer token; \
             without, calls are answered on loopback addresses alone."
                .to_owned(),
        );
        let mut document = serde_json::to_value(document).unwrap();
        // The modules that handlers are in are nobody's concern.
        for methods in document["paths"].as_object_mut().unwrap().values_mut() {
            for operation in methods.as_object_mut().unwrap().values_mut() {
                operation.as_object_mut().unwrap().shift_remove("tags");
            }
        }
        document
    }

    fn text() -> String {
        serde_json::to_string_pretty(&document()).unwrap() + "\n"
    }

    #[test]
    fn the_document_is_up_to_date() {
        assert!(
            DOCUMENT == text(),
            "write it anew: cargo test --lib -- --ignored the_document_is_written"
        );
    }

    #[test]
    #[ignore = "it writes a file of the source"]
    fn the_document_is_written() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/openapi.json");
        std::fs::write(file, text()).unwrap();
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let mut documented: Vec<_> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| (method.as_str(), path.as_str()))
            })
            .collect();
        let mut served = SERVED.to_vec();
        documented.sort_unstable();
        served.sort_unstable();
        assert_eq!(documented, served);
    }
}
