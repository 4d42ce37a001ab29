//! The HTTP face of the local control plane.
//!
//! Guarantees: a request fails in the contract's order (A.2): route, method, token, parameters,
//! `{id}`, handler; handlers only translate, the fleet decides; every error has the API's form;
//! without a token no web page is answered.

mod create;
mod error;
mod extract;
mod faults;
mod guard;
mod ingresses;
mod instances;
mod logs;
mod observe;
mod rest;
mod snapshots;
mod verbs;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State, State as Shared};
use axum::http::header;
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

use crate::driver::Driver;
use crate::faults::FaultBox;
use crate::fleet::Fleet;
use error::ApiError;

/// Every route. Without a `token` every program is let in, and no web page.
pub(crate) fn routes(fleet: Arc<Fleet>, token: Option<String>, faults: Option<FaultBox>) -> Router {
    let token: Option<Arc<str>> = token.map(Into::into);
    let is_open = token.is_none();
    let document = document(is_open);
    let router = Router::new()
        .route("/instances", get(instances::list).post(instances::create))
        .route(
            "/instances/{id}",
            get(instances::get)
                .patch(instances::update)
                .delete(instances::delete),
        )
        .route("/instances/{id}/standby", post(verbs::standby))
        .route("/instances/{id}/restore", post(verbs::restore))
        .route("/instances/{id}/start", post(verbs::start))
        .route("/instances/{id}/stop", post(verbs::stop))
        .route("/instances/{id}/fork", post(verbs::fork))
        .route("/instances/{id}/wait", get(observe::wait))
        .route("/instances/{id}/logs", get(logs::logs))
        .route("/instances/{id}/stat", get(observe::stat))
        .route("/instances/{id}/stats", get(observe::stats))
        .route(
            "/instances/{id}/auto-standby/status",
            get(observe::auto_standby_status),
        )
        .route(
            "/instances/{id}/auto-standby/hold",
            post(observe::auto_standby_hold),
        )
        .route(
            "/instances/{id}/volumes/{volume}",
            post(snapshots::attach_volume).delete(snapshots::detach_volume),
        )
        .route("/instances/{id}/snapshots", post(snapshots::create))
        .route(
            "/instances/{id}/snapshots/{snapshot}/restore",
            post(snapshots::restore),
        )
        .route(
            "/instances/{id}/snapshot-schedule",
            get(snapshots::schedule)
                .put(snapshots::set_schedule)
                .delete(snapshots::delete_schedule),
        )
        .route("/snapshots", get(snapshots::list))
        .route(
            "/snapshots/{snapshot}",
            get(snapshots::get).delete(snapshots::delete),
        )
        .route("/snapshots/{snapshot}/fork", post(snapshots::fork))
        .route("/ingresses", get(ingresses::list).post(ingresses::create))
        .route(
            "/ingresses/{id}",
            get(ingresses::get).delete(ingresses::delete),
        )
        .route("/capabilities", get(capabilities))
        .with_state(fleet);
    let router = match faults {
        None => router,
        Some(faults) => router
            .route(
                "/_test/faults",
                get(faults::show)
                    .put(faults::change)
                    .with_state(faults.clone()),
            )
            .route_layer(from_fn_with_state(faults, faults::disturb)),
    };
    let router = router
        .route_layer(from_fn_with_state(token, authenticate))
        .route("/health", get(async || Json(json!({ "status": "ok" }))))
        .route("/openapi.json", get(openapi).with_state(document.clone()))
        .route("/spec.json", get(openapi).with_state(document))
        .fallback(async || ApiError::no_operation())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(map_response(error::speak_the_dialect));
    let router = match is_open {
        true => router.layer(from_fn(guard::keep_pages_out)),
        false => router,
    };
    router.layer(from_fn(rest::read_rest))
}

async fn authenticate(
    State(token): State<Option<Arc<str>>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(token) = token else {
        return Ok(next.run(request).await);
    };
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.ok_or_else(|| ApiError::unauthorized("authorization header required"))?;
    let offered = header.to_str().ok().and_then(|text| text.split_once(' '));
    let (scheme, offered) =
        offered.ok_or_else(|| ApiError::unauthorized("invalid authorization header format"))?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(ApiError::unauthorized(
            "invalid authorization header format",
        ));
    }
    if bool::from(offered.trim().as_bytes().ct_eq(token.as_bytes())) {
        Ok(next.run(request).await)
    } else {
        Err(ApiError::unauthorized("invalid token"))
    }
}

/// The description of the API; of one that is open it says that no token is needed.
fn document(is_open: bool) -> Bytes {
    const DOCUMENT: &str = include_str!("openapi.json");
    const SECURITY: &str = "\"security\": [{\"bearer\": []}],";
    match is_open {
        true => DOCUMENT.replacen(SECURITY, "\"security\": [],", 1).into(),
        false => Bytes::from_static(DOCUMENT.as_bytes()),
    }
}

/// The description of the API, which is as public as upstream's.
async fn openapi(State(document): State<Bytes>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, document)
}

async fn capabilities(Shared(fleet): Shared<Arc<Fleet>>) -> Json<Value> {
    let (name, features) = (fleet.driver.name(), fleet.driver.features());
    let (model, gateway, subnet) = fleet.driver.network();
    // QEMU's user network leads a VM to nobody else's.
    let is_apart = model == "nat" && matches!(fleet.driver, Driver::Qemu(_));
    let mut network = json!({ "model": model, "subnet": subnet, "guest_to_guest": !is_apart });
    if let (Some(gateway), Value::Object(fields)) = (gateway, &mut network) {
        fields.insert("gateway".to_owned(), json!(gateway));
    }
    let platform = create::own_platform();
    Json(json!({
        "server": { "version": env!("CARGO_PKG_VERSION"), "api_version": "0.3.0" },
        "host": { "os": std::env::consts::OS, "arch": platform.trim_start_matches("linux/") },
        "default_runtime": { "name": name, "available": true },
        "runtimes": [{ "name": name, "available": true, "features": features }],
        "network": network,
        "images": { "platforms": [platform], "default_platform": platform },
        "features": ["instances", "ingress", "logs"],
    }))
}
