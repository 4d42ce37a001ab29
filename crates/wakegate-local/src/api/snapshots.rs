//! Snapshots, schedules and volumes.
//!
//! A process has no snapshot that could be kept apart from it, so making one is refused with 501,
//! as the contract has it for a hypervisor that cannot; a schedule records each run with that
//! error. Volumes answer as upstream does.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::extract::{Query, malformed_parameter, optional, required};
use super::instances::view;
use super::verbs::{target_state, to_its_end};
use crate::fleet::{Fleet, SnapshotRequest};
use crate::policy::compression::{Compression, CompressionRequest};
use crate::policy::schedule::ScheduleRequest;
use crate::scalars::{NAME_RULE, are_tags, have_tags, is_name};
use crate::state::State;
use crate::store::{Schedule, Snapshot, SnapshotKind, without_nulls};

#[derive(Deserialize)]
struct CreateRequest {
    kind: String,
    name: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    compression: Option<CompressionRequest>,
}

#[derive(Default, Deserialize)]
struct RestoreRequest {
    target_state: Option<String>,
    target_hypervisor: Option<String>,
}

#[derive(Deserialize)]
struct ForkRequest {
    name: String,
    target_state: Option<String>,
    target_hypervisor: Option<String>,
}

/// A volume to attach, which upstream's schema looks at before its server refuses it.
#[derive(Deserialize)]
struct AttachRequest {
    #[serde(rename = "mount_path")]
    _mount_path: String,
    #[serde(rename = "readonly")]
    _readonly: Option<bool>,
}

fn invalid(message: &str) -> ApiError {
    ApiError::bad_request("invalid_request", message)
}

pub(super) async fn create(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let request: CreateRequest = required(&body)?;
    let kind = match request.kind.as_str() {
        "Standby" => SnapshotKind::Standby,
        "Stopped" => SnapshotKind::Stopped,
        _ => return Err(ApiError::malformed("kind must be Standby or Stopped")),
    };
    let instance = fleet.resolve(&id).await?;
    let name = request.name.filter(|name| !name.is_empty());
    if name.as_ref().is_some_and(|name| !is_name(name)) {
        return Err(invalid(NAME_RULE));
    }
    let tags = request.tags.unwrap_or_default();
    if !are_tags(&tags) {
        return Err(invalid("tags are not valid"));
    }
    if let Some(compression) = &request.compression {
        let compression = Compression::accept(compression, "invalid_snapshot_compression")?;
        if compression.enabled && kind == SnapshotKind::Stopped {
            return Err(invalid("compression is for Standby snapshots alone"));
        }
    }
    let request = SnapshotRequest {
        kind,
        name,
        tags,
        scheduled: false,
    };
    let owner = Arc::clone(&fleet);
    let snapshot = fleet.detached(async move { owner.snapshot(&instance, request).await });
    Ok((StatusCode::CREATED, Json(snapshot.await?.view())))
}

/// The state that is asked for, or the one that goes without saying.
fn target(snapshot: &Snapshot, requested: Option<&String>) -> Result<State, ApiError> {
    let requested = requested.filter(|text| !text.is_empty());
    match requested.map(String::as_str) {
        None => Ok(snapshot.kind.default_target()),
        Some(text) => target_state(text),
    }
}

/// Memory fits the hypervisor alone that has written it, so that it may not even be named for a
/// Standby snapshot; a Stopped one has no memory, and starts with the hypervisor that there is.
fn check_hypervisor(
    fleet: &Fleet,
    snapshot: &Snapshot,
    requested: Option<&String>,
) -> Result<(), ApiError> {
    let requested = requested
        .map(String::as_str)
        .filter(|text| !text.is_empty());
    let Some(name) = requested else {
        return Ok(());
    };
    match snapshot.kind {
        SnapshotKind::Standby => Err(invalid("target_hypervisor is for Stopped snapshots alone")),
        SnapshotKind::Stopped if Some(name) == fleet.driver.hypervisor() => Ok(()),
        SnapshotKind::Stopped => Err(invalid("target_hypervisor: there is no such here")),
    }
}

pub(super) async fn restore(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path((id, snapshot)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let request: RestoreRequest = optional(&body)?;
    let instance = fleet.resolve(&id).await?;
    let missing = |_| ApiError::not_found("instance or snapshot not found");
    let snapshot = fleet.find_snapshot(&snapshot).map_err(missing)?;
    if snapshot.source() != instance.id {
        return Err(invalid("the snapshot is of another instance"));
    }
    check_hypervisor(&fleet, &snapshot, request.target_hypervisor.as_ref())?;
    let target = target(&snapshot, request.target_state.as_ref())?;
    to_its_end(&fleet, &instance, |owner, instance| async move {
        owner.restore_snapshot(&instance, &snapshot, target).await
    })
    .await
}

pub(super) async fn fork(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(snapshot): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let request: ForkRequest = required(&body)?;
    let snapshot = fleet.find_snapshot(&snapshot)?;
    if !is_name(&request.name) {
        return Err(invalid(NAME_RULE));
    }
    check_hypervisor(&fleet, &snapshot, request.target_hypervisor.as_ref())?;
    let target = target(&snapshot, request.target_state.as_ref())?;
    let (owner, name) = (Arc::clone(&fleet), request.name);
    let forked = fleet.detached(async move { owner.fork_snapshot(&snapshot, name, target).await });
    Ok((StatusCode::CREATED, view(&fleet, &*forked.await?)))
}

pub(super) async fn list(
    Shared(fleet): Shared<Arc<Fleet>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<Value>>, ApiError> {
    let query = Query::parse(query.as_deref());
    let kind = match query.text("kind") {
        None => None,
        Some("Standby") => Some(SnapshotKind::Standby),
        Some("Stopped") => Some(SnapshotKind::Stopped),
        Some(_) => {
            let rule = "it must be Standby or Stopped";
            return Err(malformed_parameter("kind", rule));
        }
    };
    let (source, name) = (query.text("source_instance_id"), query.text("name"));
    let tags = query.tags()?;
    let matching = fleet.all_snapshots().into_iter().filter(|snapshot| {
        kind.is_none_or(|kind| snapshot.kind == kind)
            && source.is_none_or(|source| snapshot.source() == source)
            && name.is_none_or(|name| snapshot.name.as_deref() == Some(name))
            && have_tags(&snapshot.tags, &tags)
    });
    Ok(Json(matching.map(|snapshot| snapshot.view()).collect()))
}

pub(super) async fn get(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(snapshot): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(fleet.find_snapshot(&snapshot)?.view()))
}

pub(super) async fn delete(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(snapshot): Path<String>,
) -> Result<StatusCode, ApiError> {
    let snapshot = fleet.find_snapshot(&snapshot)?;
    let owner = Arc::clone(&fleet);
    let deleted = fleet.detached(async move { owner.delete_snapshot(&snapshot).await });
    deleted.await?;
    Ok(StatusCode::NO_CONTENT)
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
        "last_snapshot_id": schedule.last_snapshot_id,
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
    let _guard = instance.lock_living().await?;
    let before = instance.record().spec.schedule.clone();
    let schedule = Schedule::accept(request, &instance.id, before.as_ref(), fleet.clock.now())?;
    fleet.update(&instance, |record| {
        record.spec.schedule = Some(schedule.clone());
    })?;
    Ok(show(&instance.id, &schedule))
}

pub(super) async fn delete_schedule(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let instance = fleet.resolve(&id).await?;
    let _guard = instance.lock_living().await?;
    if instance.record().spec.schedule.is_none() {
        return Err(ApiError::not_found("snapshot schedule not found"));
    }
    fleet.update(&instance, |record| record.spec.schedule = None)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn attach_volume(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path((id, _volume)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let _request: AttachRequest = required(&body)?;
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
