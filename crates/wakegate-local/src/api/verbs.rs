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
use super::instances::view;
use crate::error::Error;
use crate::fleet::{EXEC_IMAGE, Fleet};
use crate::policy::compression::{Compression, CompressionRequest, accept_delay};
use crate::scalars::{NAME_RULE, are_words, is_name};
use crate::state::State;
use crate::store::Instance;

#[derive(Default, Deserialize)]
struct StandbyRequest {
    compression: Option<CompressionRequest>,
    compression_delay: Option<String>,
}

#[derive(Default, Deserialize)]
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

// === impl StandbyRequest ===

impl StandbyRequest {
    fn check(&self) -> Result<(), Error> {
        if let Some(compression) = &self.compression {
            Compression::accept(compression, "invalid_snapshot_compression")?;
        }
        let delay = self.compression_delay.as_deref();
        if let Some(delay) = delay.filter(|text| !text.is_empty()) {
            accept_delay(delay, "invalid_compression_delay")?;
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
        owner.disturb_restored(&target).await;
        Ok(())
    })
    .await
}

/// Checks that an instance which is to be started has a program then.
fn check_program(
    instance: &Instance,
    entrypoint: Option<&Vec<String>>,
    cmd: Option<&Vec<String>>,
) -> Result<(), ApiError> {
    let invalid = |text: &str| Err(ApiError::bad_request("invalid_request", text));
    let record = instance.record();
    let spec = &record.spec;
    let entrypoint = entrypoint.or(spec.entrypoint.as_ref());
    let words = || {
        entrypoint
            .into_iter()
            .chain(cmd.or(spec.cmd.as_ref()))
            .flatten()
    };
    if !are_words(words()) {
        return invalid("entrypoint and cmd must not contain a NUL");
    }
    if record.state == State::Stopped && spec.image == EXEC_IMAGE && words().next().is_none() {
        return invalid("local/exec needs entrypoint or cmd");
    }
    Ok(())
}

pub(super) async fn start(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let StartRequest { entrypoint, cmd } = optional(&body)?;
    let instance = fleet.resolve(&id).await?;
    check_program(&instance, entrypoint.as_ref(), cmd.as_ref())?;
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
