//! Faults on demand: how they are set, and how calls meet them.
//!
//! Guarantees: what had its effect before the fault has had it.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::json;
use tokio::time::sleep;

use super::error::ApiError;
use super::extract::required;
use crate::faults::{FaultBox, Faults, chance};

/// Longer than any client waits.
const HANG: Duration = Duration::from_secs(120);

pub(super) async fn show(State(faults): State<FaultBox>) -> Json<Faults> {
    Json(faults.get())
}

pub(super) async fn change(
    State(faults): State<FaultBox>,
    body: Bytes,
) -> Result<Json<Faults>, ApiError> {
    let requested: Faults = required(&body)?;
    if !requested.are_percentages() {
        return Err(ApiError::malformed(
            "request body has an error: a percentage is at most 100",
        ));
    }
    faults.set(requested);
    Ok(Json(requested))
}

/// Puts the faults between a call and its handler.
pub(super) async fn disturb(
    State(faults): State<FaultBox>,
    request: Request,
    next: Next,
) -> Response {
    let faults = faults.get();
    if request.uri().path() == "/_test/faults" || faults == Faults::default() {
        return next.run(request).await;
    }
    if chance(faults.slow_percent) {
        sleep(Duration::from_millis(fastrand::u64(0..=faults.slow_ms))).await;
    }
    if chance(faults.hang_percent) {
        sleep(HANG).await;
    }
    let verb = ["/restore", "/start", "/standby", "/stop"];
    let is_verb = verb.iter().any(|verb| request.uri().path().ends_with(verb));
    if is_verb && chance(faults.conflict_percent) {
        let body = json!({ "code": "invalid_state", "message": "a fault, as asked for" });
        return (StatusCode::CONFLICT, Json(body)).into_response();
    }
    let broken = chance(faults.error_percent);
    let error = || {
        let body = json!({ "code": "internal_error", "message": "a fault, as asked for" });
        (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
    };
    if broken && fastrand::bool() {
        return error();
    }
    let response = next.run(request).await;
    if broken {
        return error();
    }
    if chance(faults.drop_percent) {
        let half = stream::iter([
            Ok(Bytes::from_static(b"{")),
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        ]);
        let kind = [(header::CONTENT_TYPE, "application/json")];
        return (kind, Body::from_stream(half)).into_response();
    }
    response
}
