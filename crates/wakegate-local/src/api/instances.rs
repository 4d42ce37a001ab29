//! `/instances` and `/instances/{id}`: create, list, get, update, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::create::{accept, expiry};
use super::error::ApiError;
use super::extract::{Query, required};
use crate::fleet::Fleet;
use crate::policy::auto_standby::{Policy, PolicyRequest};
use crate::policy::health_check::{Access, HealthCheck, HealthCheckRequest};
use crate::policy::restart::{RestartPolicy, RestartRequest};
use crate::scalars::have_tags;
use crate::store::Instance;

#[derive(Deserialize)]
struct UpdateRequest {
    env: Option<BTreeMap<String, String>>,
    auto_standby: Option<PolicyRequest>,
    health_check: Option<HealthCheckRequest>,
    restart_policy: Option<RestartRequest>,
    ttl: Option<String>,
    expires_at: Option<String>,
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("invalid_request", message)
}

pub(super) async fn create(
    Shared(fleet): Shared<Arc<Fleet>>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let spec = accept(required(&body)?, &fleet.driver, fleet.clock.now())?;
    let owner = Arc::clone(&fleet);
    let created = fleet.detached(async move { owner.create(spec).await });
    let instance = created.await?;
    Ok((StatusCode::CREATED, view(&fleet, &instance)))
}

pub(super) fn view(fleet: &Fleet, instance: &Instance) -> Json<Value> {
    Json(instance.record().view(fleet.clock.now()))
}

pub(super) async fn list(
    Shared(fleet): Shared<Arc<Fleet>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<Value>>, ApiError> {
    let query = Query::parse(query.as_deref());
    let (state, tags) = (query.state()?, query.tags()?);
    let now = fleet.clock.now();
    let all = fleet.all();
    let records = all.iter().map(|instance| instance.record());
    let matching = records.filter(|record| {
        state.is_none_or(|state| record.state == state) && have_tags(&record.spec.tags, &tags)
    });
    Ok(Json(matching.map(|record| record.view(now)).collect()))
}

pub(super) async fn get(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(view(&fleet, &*fleet.resolve(&id).await?))
}

pub(super) async fn delete(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, ApiError> {
    let query = Query::parse(query.as_deref());
    let graceful = query.flag("graceful_shutdown")?.unwrap_or(true);
    let instance = fleet.resolve(&id).await?;
    let owner = Arc::clone(&fleet);
    fleet
        .detached(async move { owner.delete_instance(&instance, graceful).await })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn update(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let request: UpdateRequest = required(&body)?;
    let instance = fleet.resolve(&id).await?;
    let _guard = instance.lock_living().await?;
    let now = fleet.clock.now();
    let UpdateRequest {
        env,
        auto_standby,
        health_check,
        restart_policy,
        ttl,
        expires_at,
    } = request;
    let empty = env.is_none()
        && auto_standby.is_none()
        && health_check.is_none()
        && restart_policy.is_none()
        && ttl.is_none()
        && expires_at.is_none();
    if empty {
        return Err(invalid("no fields to update"));
    }
    if env.is_some() {
        return Err(invalid(
            "env: only keys that a credential uses can change, and there is none",
        ));
    }
    let (access, expired) = {
        let record = instance.record();
        let access = Access {
            network: record.spec.network_enabled,
            agent: !record.spec.skip_guest_agent,
        };
        (access, record.spec.expires_at.is_some_and(|at| at <= now))
    };
    let health_check = health_check.map(|check| HealthCheck::accept(check, access));
    let health_check = health_check.transpose()?;
    let restart_policy = restart_policy.as_ref();
    let restart_policy = restart_policy.map(RestartPolicy::accept).transpose()?;
    let policy = auto_standby
        .map(|policy| Policy::accept(&policy))
        .transpose()?;
    let expires = expiry(ttl.as_ref(), expires_at.as_ref(), now)?;
    if expired {
        return Err(ApiError::conflict(
            "instance_expired",
            "instance has expired",
        ));
    }
    fleet.update(&instance, |record| {
        if let Some(expires) = expires {
            record.spec.expires_at = expires;
        }
        if let Some(check) = &health_check {
            record.spec.health_check.clone_from(check);
            record.health.restart(now);
        }
        if let Some(policy) = &restart_policy {
            record.spec.restart_policy.clone_from(policy);
            record.restarts.forget();
        }
        if let Some(policy) = &policy {
            let before = record.spec.policy.replace(policy.clone());
            record.countdown.adopt(before.as_ref(), policy, now);
        }
    })?;
    if let (Some(policy), Some(traffic)) = (policy, fleet.driver.traffic(&instance.id)) {
        traffic.policy.store(Some(Arc::new(policy)));
    }
    Ok(view(&fleet, &instance))
}
