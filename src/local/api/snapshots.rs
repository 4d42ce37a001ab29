//! Snapshots, schedules and volumes.
//!
//! A process has no snapshot that could be kept apart from it, so making one is refused with 501,
//! as the contract has it for a hypervisor that cannot. Schedules are kept and shown, and each run
//! is recorded with that error. Volumes answer as upstream does.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::extract::required;
use crate::local::fleet::Fleet;
use crate::local::instance::{Schedule, State, without_nulls};
use crate::local::scalars::are_tags;
use crate::names::GoDuration;

#[derive(Deserialize)]
struct CreateRequest {
    kind: String,
}

#[derive(Deserialize)]
struct ScheduleRequest {
    interval: String,
    retention: Retention,
    name_prefix: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Retention {
    max_count: Option<i64>,
    max_age: Option<String>,
}

fn invalid(message: &str) -> ApiError {
    ApiError::bad_request("invalid_request", message)
}

pub(super) async fn create(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let request: CreateRequest = required(&body)?;
    let instance = fleet.resolve(&id).await?;
    match request.kind.as_str() {
        "Stopped" if instance.state() != State::Stopped => {
            Err(ApiError::conflict("conflict", "instance is not stopped"))
        }
        "Stopped" | "Standby" => Err(ApiError::not_supported(
            "the process driver cannot make snapshots",
        )),
        _ => Err(ApiError::malformed("kind must be Standby or Stopped")),
    }
}

/// No snapshot can have been made.
pub(super) async fn restore(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path((id, _snapshot)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let _options: Value = required(&body)?;
    fleet.resolve(&id).await?;
    Err(ApiError::not_found("instance or snapshot not found"))
}

pub(super) async fn list() -> Json<[Value; 0]> {
    Json([])
}

pub(super) async fn get() -> ApiError {
    ApiError::not_found("resource not found")
}

fn show(id: &str, schedule: &Schedule) -> Json<Value> {
    Json(without_nulls(json!({
        "instance_id": id,
        "interval": schedule.interval,
        "retention": schedule.retention,
        "name_prefix": schedule.name_prefix,
        "metadata": (!schedule.metadata.is_empty()).then_some(&schedule.metadata),
        "next_run_at": schedule.next_run_at,
        "created_at": schedule.created_at,
        "updated_at": schedule.updated_at,
        "last_run_at": schedule.last_run_at,
        "last_error": schedule.last_error,
    })))
}

pub(super) async fn schedule(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let instance = fleet.resolve(&id).await?;
    let record = instance.record();
    let schedule = record.spec.schedule.as_ref();
    let schedule = schedule.ok_or_else(|| ApiError::not_found("snapshot schedule not found"))?;
    Ok(show(&instance.id, schedule))
}

pub(super) async fn set_schedule(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let request: ScheduleRequest = required(&body)?;
    let instance = fleet.resolve(&id).await?;
    let interval: GoDuration = request
        .interval
        .parse()
        .map_err(|_| invalid("interval is not a duration"))?;
    if interval.nanos() < 60_000_000_000 {
        return Err(invalid("interval must be at least 1m"));
    }
    let age = request
        .retention
        .max_age
        .as_deref()
        .map(str::parse::<GoDuration>)
        .transpose();
    let age = age.map_err(|_| invalid("retention.max_age is not a duration"))?;
    let count = request.retention.max_count;
    if (age.is_none() && count.is_none()) || count.is_some_and(|count| count < 0) {
        return Err(invalid("retention needs max_count or max_age"));
    }
    if request
        .name_prefix
        .as_ref()
        .is_some_and(|prefix| prefix.len() > 47)
    {
        return Err(invalid("name_prefix must be at most 47 characters"));
    }
    let metadata = request.metadata.unwrap_or_default();
    if !are_tags(&metadata) {
        return Err(invalid("metadata is not valid"));
    }
    let now = Timestamp::now();
    let step = SignedDuration::from_nanos(interval.nanos());
    let next_run_at = now
        .checked_add(step)
        .map_err(|_| invalid("interval is too long"))?;
    let answer = {
        let mut record = instance.record();
        let before = record.spec.schedule.take();
        let schedule = Schedule {
            interval,
            retention: without_nulls(json!({ "max_count": count, "max_age": age })),
            name_prefix: request.name_prefix,
            metadata,
            next_run_at,
            created_at: before.as_ref().map_or(now, |schedule| schedule.created_at),
            updated_at: now,
            last_run_at: before.as_ref().and_then(|schedule| schedule.last_run_at),
            last_error: before.and_then(|schedule| schedule.last_error),
        };
        let answer = show(&instance.id, &schedule);
        record.spec.schedule = Some(schedule);
        answer
    };
    fleet.save(&instance)?;
    Ok(answer)
}

pub(super) async fn delete_schedule(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let instance = fleet.resolve(&id).await?;
    let removed = instance.record().spec.schedule.take();
    if removed.is_none() {
        return Err(ApiError::not_found("snapshot schedule not found"));
    }
    fleet.save(&instance)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn attach_volume(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path((id, _volume)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    fleet.resolve(&id).await?;
    Err(ApiError::not_implemented(
        "volume attachment not yet implemented",
    ))
}

pub(super) async fn detach_volume(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path((id, _volume)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    fleet.resolve(&id).await?;
    Err(ApiError::not_implemented(
        "volume detachment not yet implemented",
    ))
}
