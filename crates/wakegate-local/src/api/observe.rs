//! Looking at an instance: wait, stat, stats, auto-standby.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, RawQuery, State as Shared};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::error::ApiError;
use super::extract::{Query, malformed_parameter};
use crate::fleet::Fleet;
use crate::path_info::PathInfo;
use crate::policy::countdown::{StatusView, is_eligible};
use crate::state::State;
use crate::store::{Instance, without_nulls};
use hypeman::GoDuration;

/// Every call but logs ends after this (contract A.2).
const PIPELINE_DEADLINE: Duration = Duration::from_secs(60);

/// Returns at once when the target is reached or cannot be by itself (contract B.4).
pub(super) async fn wait(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let query = Query::parse(query.as_deref());
    let target = query.state()?;
    let target = target.ok_or_else(|| malformed_parameter("state", "it is required"))?;
    let instance = fleet.resolve(&id).await?;
    if target == State::Unknown {
        return Err(ApiError::bad_request(
            "invalid_state",
            "cannot wait for Unknown",
        ));
    }
    let invalid = |text: &str| ApiError::bad_request("invalid_timeout", text);
    let timeout: GoDuration = query
        .text("timeout")
        .filter(|text| !text.is_empty())
        .unwrap_or("60s")
        .parse()
        .map_err(|_| invalid("timeout is not a duration"))?;
    let timeout = timeout.to_std().filter(|timeout| !timeout.is_zero());
    let timeout = timeout.ok_or_else(|| invalid("timeout must be positive"))?;
    let deadline = Instant::now() + timeout.min(PIPELINE_DEADLINE);
    let mut states = instance.watch();
    loop {
        states.mark_unchanged();
        let state = instance.state();
        if instance.is_deleted() {
            return Err(ApiError::not_found("instance was deleted while waiting"));
        }
        let settled = matches!(
            state,
            State::Stopped | State::Standby | State::Shutdown | State::Paused | State::Unknown
        );
        if state == target || settled {
            return Ok(waited(state, false));
        }
        let changed = tokio::time::timeout_at(deadline, states.changed()).await;
        if changed.is_err() {
            return Ok(waited(instance.state(), true));
        }
    }
}

fn waited(state: State, timed_out: bool) -> Json<Value> {
    let (error, state) = (state.error(), state.as_str());
    Json(without_nulls(
        json!({ "state": state, "timed_out": timed_out, "state_error": error }),
    ))
}

pub(super) async fn stat(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<PathInfo>, ApiError> {
    let query = Query::parse(query.as_deref());
    let path = query.text("path").filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| malformed_parameter("path", "it is required"))?;
    // The agent of an instance stands at its root, and not where this server was started.
    let path = format!("/{}", path.trim_start_matches('/'));
    let follow = query.flag("follow_links")?.unwrap_or(false);
    let instance = fleet.resolve(&id).await?;
    let state = instance.state();
    if state != State::Running {
        let text = format!("instance must be running (current state: {state})");
        return Err(ApiError::conflict("invalid_state", text));
    }
    if instance.record().spec.skip_guest_agent {
        let text = "instance has no guest agent (skip_guest_agent)";
        return Err(ApiError::conflict("invalid_state", text));
    }
    let found = fleet.driver.look(&instance.id, &path, follow).await;
    let found = found.map_err(|error| {
        tracing::warn!(instance = %instance.id, %error, "cannot look at a path");
        ApiError::internal("failed to stat path")
    });
    found.map(Json)
}

pub(super) async fn stats(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let instance = fleet.resolve(&id).await?;
    let usage = fleet.driver.usage(&instance.id);
    let traffic = fleet.driver.traffic(&instance.id);
    let record = instance.record();
    let allocated = record.spec.size;
    let allocated = allocated.saturating_add(record.spec.hotplug_size.unwrap_or(0));
    let ratio = (allocated > 0).then(|| usage.memory_rss_bytes as f64 / allocated as f64);
    Ok(Json(without_nulls(json!({
        "instance_id": record.spec.id,
        "instance_name": record.spec.name,
        "cpu_seconds": usage.cpu_seconds,
        "memory_rss_bytes": usage.memory_rss_bytes,
        "memory_vms_bytes": usage.memory_vms_bytes,
        "network_rx_bytes": traffic.as_ref().map_or(0, |traffic| traffic.received()),
        "network_tx_bytes": traffic.as_ref().map_or(0, |traffic| traffic.sent()),
        "allocated_vcpus": record.spec.vcpus,
        "allocated_memory_bytes": allocated,
        "memory_utilization_ratio": ratio,
    }))))
}

fn status_of(fleet: &Fleet, instance: &Instance) -> Json<StatusView> {
    let record = instance.record();
    let policy = record.spec.policy.as_ref();
    Json(
        record
            .countdown
            .status(policy, record.circumstances(), fleet.clock.now()),
    )
}

pub(super) async fn auto_standby_status(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<StatusView>, ApiError> {
    Ok(status_of(&fleet, &*fleet.resolve(&id).await?))
}

pub(super) async fn auto_standby_hold(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<StatusView>, ApiError> {
    let instance = fleet.resolve(&id).await?;
    // Behind the lock, so that a standby that executes is over before we look.
    let _guard = instance.read_living().await?;
    {
        let mut record = instance.record();
        if record.state == State::Standby {
            let text = "instance is in standby; restore it before connecting";
            return Err(ApiError::conflict("instance_in_standby", text));
        }
        let circumstances = record.circumstances();
        let policy = record.spec.policy.clone();
        if let Some(policy) = policy.filter(|policy| is_eligible(Some(policy), circumstances)) {
            record.countdown.hold(fleet.clock.now(), &policy);
        }
    }
    Ok(status_of(&fleet, &instance))
}
