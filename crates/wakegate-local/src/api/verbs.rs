//! Verbs on an instance. Each runs to its end even when the caller leaves.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;
use super::extract::{optional, required};
use super::instances::{NAME_RULE, view};
use crate::error::Error;
use crate::fleet::Fleet;
use crate::scalars::is_name;
use crate::state::State;
use crate::store::Instance;
use hypeman::GoDuration;

#[derive(Default, Deserialize)]
struct StandbyRequest {
    compression: Option<Compression>,
    compression_delay: Option<String>,
}

/// The compression of memory that a caller asks for.
#[derive(Deserialize)]
pub(super) struct Compression {
    enabled: bool,
    algorithm: Option<String>,
    level: Option<i64>,
}

#[derive(Deserialize)]
struct StartRequest {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ForkRequest {
    name: String,
    from_running: Option<bool>,
    target_state: Option<String>,
}

// === impl Compression ===

impl Compression {
    /// Checks algorithm and level, which are ignored when it is off (contract A.6).
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let bad = |text: &str| Err(ApiError::bad_request("invalid_snapshot_compression", text));
        let level = self.level;
        match self.algorithm.as_deref().unwrap_or("zstd") {
            _ if !self.enabled => Ok(()),
            "zstd" if level.is_some_and(|level| !(1..=19).contains(&level)) => {
                bad("zstd level must be between 1 and 19")
            }
            "lz4" if level.is_some_and(|level| !(0..=9).contains(&level)) => {
                bad("lz4 level must be between 0 and 9")
            }
            "zstd" | "lz4" => Ok(()),
            _ => bad("algorithm must be zstd or lz4"),
        }
    }
}

// === impl StandbyRequest ===

impl StandbyRequest {
    fn check(&self) -> Result<(), ApiError> {
        if let Some(compression) = &self.compression {
            compression.check()?;
        }
        let delay = self
            .compression_delay
            .as_deref()
            .map(str::parse::<GoDuration>);
        if delay.is_some_and(|delay| !delay.is_ok_and(|delay| delay.nanos() >= 0)) {
            return Err(ApiError::bad_request(
                "invalid_compression_delay",
                "invalid duration",
            ));
        }
        Ok(())
    }
}

/// Reads a state that an instance can be asked to be in.
pub(super) fn target_state(text: &str) -> Result<State, ApiError> {
    match text {
        "Stopped" => Ok(State::Stopped),
        "Standby" => Ok(State::Standby),
        "Running" => Ok(State::Running),
        _ => Err(ApiError::malformed(
            "target_state must be Stopped, Standby or Running",
        )),
    }
}

/// Runs a verb to its end and shows the instance after it.
pub(super) async fn to_its_end<F>(
    fleet: &Arc<Fleet>,
    instance: &Arc<Instance>,
    verb: impl FnOnce(Arc<Fleet>, Arc<Instance>) -> F,
) -> Result<Json<Value>, ApiError>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let verb = verb(Arc::clone(fleet), Arc::clone(instance));
    fleet.detached(verb).await?;
    Ok(view(fleet, instance))
}

pub(super) async fn standby(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let request: StandbyRequest = optional(&body)?;
    let instance = fleet.resolve(&id).await?;
    request.check()?;
    let with_options = request.compression.is_some() || request.compression_delay.is_some();
    to_its_end(&fleet, &instance, |owner, target| async move {
        owner.standby(&target, with_options).await
    })
    .await
}

pub(super) async fn restore(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let instance = fleet.resolve(&id).await?;
    to_its_end(&fleet, &instance, |owner, target| async move {
        owner.restore(&target).await?;
        owner.disturb_restored(&target);
        Ok(())
    })
    .await
}

pub(super) async fn start(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let StartRequest { entrypoint, cmd } = required(&body)?;
    let instance = fleet.resolve(&id).await?;
    to_its_end(&fleet, &instance, |owner, target| async move {
        owner.start(&target, entrypoint, cmd).await
    })
    .await
}

pub(super) async fn stop(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let instance = fleet.resolve(&id).await?;
    to_its_end(&fleet, &instance, |owner, target| async move {
        owner.stop(&target).await
    })
    .await
}

pub(super) async fn fork(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let ForkRequest {
        name,
        from_running,
        target_state: requested,
    } = required(&body)?;
    let source = fleet.resolve(&id).await?;
    let invalid = |text: &str| ApiError::bad_request("invalid_request", text);
    if !is_name(&name) {
        return Err(invalid(NAME_RULE));
    }
    let target = requested.filter(|text| !text.is_empty());
    let target = target.as_deref().map(target_state).transpose()?;
    let (owner, running) = (Arc::clone(&fleet), from_running.unwrap_or(false));
    let copy = fleet
        .detached(async move { owner.fork(&source, name, running, target).await })
        .await?;
    Ok((StatusCode::CREATED, view(&fleet, &copy)))
}
