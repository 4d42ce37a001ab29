//! Faults on demand, for tests of whoever uses this control plane.
//!
//! Guarantees: nothing of this exists unless the server was started with `--allow-faults`; a fault
//! is drawn for each call anew; what had its effect before the fault has had it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;

use super::fleet::Fleet;
use super::instance::{Instance, State as InstanceState};

/// Longer than any client waits.
const HANG: Duration = Duration::from_secs(120);

/// Which faults, in percent of calls; all zero is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Calls that are late,
    pub slow_percent: u8,
    /// by at most this.
    pub slow_ms: u64,
    /// Calls that end with 500, half of them after they had their effect.
    pub error_percent: u8,
    /// Verbs that end with 409 `invalid_state`.
    pub conflict_percent: u8,
    /// Calls that are never answered.
    pub hang_percent: u8,
    /// Calls whose connection breaks in the middle of the answer.
    pub drop_percent: u8,
    /// Restored instances that stay Initializing for a while,
    pub initializing_percent: u8,
    /// for at most this long.
    pub initializing_ms: u64,
    /// Restored instances that go back to standby at once.
    pub flap_percent: u8,
}

/// The faults in force.
#[derive(Debug, Clone, Default)]
pub(super) struct FaultBox(Arc<Mutex<Faults>>);

fn chance(percent: u8) -> bool {
    fastrand::u8(0..100) < percent
}

// === impl FaultBox ===

impl FaultBox {
    pub(super) fn get(&self) -> Faults {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, faults: Faults) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// How long this restored instance is to stay Initializing.
    pub(super) fn initializing(&self) -> Option<Duration> {
        let faults = self.get();
        let longest = faults.initializing_ms.max(1);
        chance(faults.initializing_percent)
            .then(|| Duration::from_millis(fastrand::u64(0..longest)))
    }

    /// Whether this restored instance goes back to standby at once.
    pub(super) fn flaps(&self) -> bool {
        chance(self.get().flap_percent)
    }
}

impl Fleet {
    /// What the faults in force do to an instance that has just been restored.
    pub(super) fn disturb_restored(self: &Arc<Self>, instance: &Arc<Instance>) {
        let (fleet, instance) = (Arc::clone(self), Arc::clone(instance));
        if let Some(time) = self.faults.initializing() {
            self.enter(&instance, InstanceState::Initializing, "a fault");
            self.tasks.spawn(async move {
                sleep(time).await;
                let _verb = instance.lock.write().await;
                if instance.state() == InstanceState::Initializing {
                    fleet.enter(&instance, InstanceState::Running, "the fault is over");
                }
            });
        } else if self.faults.flaps() {
            self.tasks.spawn(async move {
                // It may have gone by itself, or be gone, by then.
                let _refused = fleet.standby(&instance, false).await;
            });
        }
    }
}

pub(super) async fn show(State(faults): State<FaultBox>) -> Json<Faults> {
    Json(faults.get())
}

pub(super) async fn change(
    State(faults): State<FaultBox>,
    Json(wanted): Json<Faults>,
) -> Json<Faults> {
    faults.set(wanted);
    Json(wanted)
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
