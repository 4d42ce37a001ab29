//! `/instances` and `/instances/{id}`: create, list, get, update, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;
use super::extract::{Query, required};
use crate::driver::Driver;
use crate::error::Error;
use crate::fleet::{EXEC_IMAGE, Fleet, HELLO_IMAGE};
use crate::policy::auto_standby::{Policy, PolicyRequest};
use crate::policy::health_check::{HealthCheck, HealthCheckRequest};
use crate::policy::restart::{RestartPolicy, RestartRequest};
use crate::scalars::{are_tags, have_tags, is_name, parse_size};
use crate::state::State;
use crate::store::{Instance, Spec};
use hypeman::GoDuration;

pub(super) const NAME_RULE: &str = "name must be lowercase letters, digits and hyphens, at most 63";

#[derive(Deserialize)]
struct CreateRequest {
    name: String,
    image: String,
    size: Option<String>,
    hotplug_size: Option<String>,
    overlay_size: Option<String>,
    vcpus: Option<i64>,
    disk_io_bps: Option<String>,
    env: Option<BTreeMap<String, String>>,
    tags: Option<BTreeMap<String, String>>,
    ttl: Option<String>,
    expires_at: Option<String>,
    network: Option<NetworkRequest>,
    devices: Option<Vec<String>>,
    gpu: Option<Value>,
    volumes: Option<Vec<Value>>,
    credentials: Option<BTreeMap<String, Value>>,
    snapshot_policy: Option<Value>,
    auto_standby: Option<PolicyRequest>,
    health_check: Option<HealthCheckRequest>,
    restart_policy: Option<RestartRequest>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct NetworkRequest {
    enabled: Option<bool>,
}

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

fn size(code: &'static str, text: Option<&String>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bytes = parse_size(text).ok_or_else(|| {
        let what = code.trim_start_matches("invalid_");
        ApiError::bad_request(code, format!("invalid {what} format: {text}"))
    })?;
    Ok(Some(bytes))
}

/// The time when the instance is deleted; the outer `None` is "not said".
#[expect(
    clippy::option_option,
    reason = "not said, never, and then are three answers"
)]
fn expiry(
    ttl: Option<&String>,
    expires_at: Option<&String>,
    now: Timestamp,
) -> Result<Option<Option<Timestamp>>, ApiError> {
    if ttl.is_some() && expires_at.is_some() {
        return Err(invalid("ttl and expires_at are mutually exclusive"));
    }
    if let Some(text) = ttl {
        let bad = |why: &str| ApiError::bad_request("invalid_ttl", format!("ttl: {why}"));
        let ttl: GoDuration = text.parse().map_err(|_| bad("not a duration"))?;
        return match ttl.nanos() {
            0 => Ok(Some(None)),
            nanos if nanos < 0 => Err(bad("must not be negative")),
            nanos => {
                let at = now.checked_add(jiff::SignedDuration::from_nanos(nanos));
                Ok(Some(Some(at.map_err(|_| bad("too long"))?)))
            }
        };
    }
    let Some(text) = expires_at else {
        return Ok(None);
    };
    let bad = |why: &str| ApiError::bad_request("invalid_expires_at", format!("expires_at: {why}"));
    let at: Timestamp = text.parse().map_err(|_| bad("not an RFC 3339 time"))?;
    if at <= now {
        return Err(bad("must be in the future"));
    }
    Ok(Some(Some(at)))
}

/// Makes a specification of a request, for the driver that would run it.
fn accept(request: CreateRequest, driver: &Driver, now: Timestamp) -> Result<Spec, ApiError> {
    let hypervisor = driver.hypervisor();
    if !is_name(&request.name) {
        return Err(invalid(NAME_RULE));
    }
    let tags = request.tags.unwrap_or_default();
    if !are_tags(&tags) {
        return Err(invalid("tags are not valid"));
    }
    match request.image.as_str() {
        HELLO_IMAGE => {}
        EXEC_IMAGE => {
            let words = request.entrypoint.iter().chain(&request.cmd).flatten();
            if words.count() == 0 {
                return Err(invalid("local/exec needs entrypoint or cmd"));
            }
        }
        image => {
            let text =
                format!("image not found: {image}; there are {HELLO_IMAGE} and {EXEC_IMAGE}");
            return Err(ApiError::not_found(&text));
        }
    }
    let unsupported = [
        (
            "devices",
            request.devices.is_some_and(|list| !list.is_empty()),
        ),
        ("gpu", request.gpu.is_some()),
        (
            "volumes",
            request.volumes.is_some_and(|list| !list.is_empty()),
        ),
        (
            "credentials",
            request.credentials.is_some_and(|list| !list.is_empty()),
        ),
    ];
    if let Some((field, _)) = unsupported.iter().find(|(_, given)| *given) {
        return Err(invalid(format!(
            "{field}: not supported by the {} driver",
            driver.name()
        )));
    }
    let env = request.env.unwrap_or_default();
    if env
        .get("PORT")
        .is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return Err(invalid("env.PORT must be 1 to 65535"));
    }
    let vcpus = request.vcpus.unwrap_or(2);
    let vcpus = u32::try_from(vcpus).ok().filter(|vcpus| *vcpus >= 1);
    let network_enabled = request
        .network
        .and_then(|network| network.enabled)
        .unwrap_or(true);
    let health_check = request.health_check;
    let health_check = health_check.map(|check| HealthCheck::accept(check, network_enabled));
    let restart_policy = request.restart_policy.as_ref();
    let restart_policy = restart_policy.map(RestartPolicy::accept);
    let rate = request.disk_io_bps.map(|rate| {
        rate.trim_end_matches("/s")
            .trim_end_matches("ps")
            .to_owned()
    });
    Ok(Spec {
        id: crate::id::new_id().map_err(Error::from)?,
        name: request.name,
        image: request.image,
        created_at: now,
        env,
        tags,
        entrypoint: request.entrypoint,
        cmd: request.cmd,
        size: size("invalid_size", request.size.as_ref())?.unwrap_or(1 << 30),
        hotplug_size: size("invalid_hotplug_size", request.hotplug_size.as_ref())?,
        overlay_size: size("invalid_overlay_size", request.overlay_size.as_ref())?
            .unwrap_or(10 << 30),
        disk_io_bps: size("invalid_disk_io_bps", rate.as_ref())?,
        vcpus: vcpus.ok_or_else(|| invalid("vcpus must be at least 1"))?,
        network_enabled,
        policy: request
            .auto_standby
            .map(|policy| Policy::accept(&policy))
            .transpose()?,
        snapshot_policy: request.snapshot_policy,
        health_check: health_check.transpose()?.flatten(),
        restart_policy: restart_policy.transpose()?.flatten(),
        hypervisor: hypervisor.map(str::to_owned),
        expires_at: expiry(request.ttl.as_ref(), request.expires_at.as_ref(), now)?.flatten(),
        schedule: None,
    })
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
    let state = match query.text("state") {
        None => None,
        Some(text) => Some(
            State::parse(text)
                .ok_or_else(|| ApiError::malformed("parameter state in query has an error"))?,
        ),
    };
    let tags = query.tags()?;
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
    let graceful = query.parsed::<bool>("graceful_shutdown")?.unwrap_or(true);
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
    let network_enabled = instance.record().spec.network_enabled;
    let health_check = health_check.map(|check| HealthCheck::accept(check, network_enabled));
    let health_check = health_check.transpose()?;
    let restart_policy = restart_policy.as_ref();
    let restart_policy = restart_policy.map(RestartPolicy::accept).transpose()?;
    let policy = auto_standby
        .map(|policy| Policy::accept(&policy))
        .transpose()?;
    let expires = expiry(ttl.as_ref(), expires_at.as_ref(), now)?;
    let expired_at = instance.record().spec.expires_at;
    if expired_at.is_some_and(|at| at <= now) {
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
        if policy.is_some() {
            record.spec.policy.clone_from(&policy);
        }
    })?;
    if let (Some(policy), Some(traffic)) = (policy, fleet.driver.traffic(&instance.id)) {
        traffic.policy.store(Some(Arc::new(policy)));
    }
    Ok(view(&fleet, &instance))
}
