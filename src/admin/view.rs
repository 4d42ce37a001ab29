//! What the operator sees, as JSON.
//!
//! Guarantees: nothing here holds a secret; times are RFC 3339 or milliseconds, and say which.

use serde::Serialize;
#[cfg(test)]
use utoipa::ToSchema;

pub use crate::problem::Problem;
use crate::telemetry::InstanceCondition;
use crate::wake::{LedgerEntry, PlaneAnswer};

/// The gateway as a whole.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct StatusView {
    /// Which version runs.
    pub version: &'static str,
    /// When it began.
    #[cfg_attr(test, schema(value_type = String, format = DateTime))]
    pub started: jiff::Timestamp,
    /// Seconds since then.
    pub uptime_seconds: f64,
    /// Whether it is draining.
    pub draining: bool,
    /// Where clients connect.
    pub listeners: Vec<String>,
    /// The files of the CAs that make certificates where `tls` is `internal`.
    pub ca: Vec<String>,
    /// How many routes there are.
    pub routes: usize,
    /// Instances by state.
    pub instances: InstanceCounts,
    /// Requests waiting for a wake or for their turn.
    pub held: usize,
    /// Requests at instances.
    pub inflight: usize,
    /// Requests answered since the beginning.
    pub served: u64,
    /// The control planes.
    pub hypeman: Vec<PlaneView>,
}

/// Instances by state.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct InstanceCounts {
    /// Their lease is in force, or the control plane says Running.
    pub awake: usize,
    /// A wake is going on.
    pub waking: usize,
    /// The control plane says Standby, or the lease has ended.
    pub asleep: usize,
    /// Stopped, or in another state that requests do not lead out of.
    pub stopped: usize,
    /// Recent wakes failed, and the breaker is open.
    pub failing: usize,
}

/// A control plane.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct PlaneView {
    /// As configured.
    pub name: String,
    /// Its base URL.
    pub url: String,
    /// Whether it answered when it was last asked for its instances; absent before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// What was in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A route.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct RouteView {
    /// Its host pattern.
    pub host: String,
    /// Its path prefix.
    pub path: String,
    /// The instance, or the capture that names it.
    pub instance: String,
    /// The instance's port; 0 where each request says which.
    pub port: u16,
    /// Its control plane.
    pub hypeman: String,
    /// `h1`, `h2c`, `https` or `h2`.
    pub protocol: &'static str,
    /// Whether the configuration's file has it, or an ingress resource.
    pub source: RouteSource,
    /// Only for clients of this port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// How long its requests are held at most, as a Go duration.
    pub wake_timeout: String,
}

/// Who declared a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum RouteSource {
    /// The configuration.
    File,
    /// An ingress resource of a control plane.
    Ingress,
}

/// An instance.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct InstanceView {
    /// Its full id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its control plane.
    pub hypeman: String,
    /// `awake`, `waking`, `asleep`, `stopped` or `failing`.
    #[cfg_attr(test, schema(value_type = String))]
    #[serde(serialize_with = "condition")]
    pub state: InstanceCondition,
    /// What the control plane said when it was last asked for its instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    /// The gateway's lease, while it has an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseView>,
    /// How far its wake is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake: Option<ProgressView>,
    /// Requests that wait for it.
    pub held: usize,
    /// Requests at it.
    pub inflight: usize,
    /// The middle one of its recent wakes, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usual_wake_ms: Option<f64>,
    /// What keeps the next wake from being tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerView>,
    /// Why its last wake failed; absent when it did not. With an open breaker, what opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailureView>,
}

/// A lease: while it is in force, requests cost no call.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct LeaseView {
    /// Whether it is.
    pub in_force: bool,
    /// The instance's address.
    pub address: String,
    /// The instance's idle timeout as a Go duration; absent when it never sleeps by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
    /// Connections of the gateway's to it.
    pub connections: usize,
}

/// A wake that is going on.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct ProgressView {
    /// `asking`, `queued`, `restoring`, `starting`, `initializing`, `not_listening`, `unhealthy` or
    /// `no_capacity`.
    pub stage: &'static str,
    /// Milliseconds since its first request.
    pub since_ms: f64,
}

/// An open breaker.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct BreakerView {
    /// Failed wakes in a row.
    pub failures: u32,
    /// Milliseconds until the next may be tried.
    pub retry_after_ms: f64,
}

/// Why a wake failed.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct FailureView {
    /// The time of its end.
    #[cfg_attr(test, schema(value_type = String, format = DateTime))]
    pub time: jiff::Timestamp,
    /// Milliseconds since then.
    pub ago_ms: f64,
    /// The code that its clients got.
    pub code: &'static str,
    /// The phase that it failed in, one of those of a wake's `stage`.
    pub phase: &'static str,
    /// What the control plane said last, when that was in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<PlaneAnswer>,
    /// What is wrong at the instance itself, when that was in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A name's certificate that comes by ACME.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct CertificateView {
    /// The name.
    pub name: String,
    /// When it expires; absent when there is none yet.
    #[cfg_attr(test, schema(value_type = Option<String>, format = DateTime))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<jiff::Timestamp>,
    /// When the next is ordered.
    #[cfg_attr(test, schema(value_type = String, format = DateTime))]
    pub next_attempt: jiff::Timestamp,
    /// Why the last order failed, in the CA's words, if none has succeeded since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A hold by which a workload keeps its instance awake.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct HoldView {
    /// The instance's id.
    pub instance: String,
    /// The instance's name.
    pub name: String,
    /// Its control plane.
    pub hypeman: String,
    /// The task, as the workload calls it.
    pub task: String,
    /// Its end.
    #[cfg_attr(test, schema(value_type = String, format = DateTime))]
    pub until: jiff::Timestamp,
    /// Milliseconds until then.
    pub left_ms: f64,
}

/// An instance with its last wakes.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct InstanceDetail {
    /// The instance.
    #[serde(flatten)]
    pub instance: InstanceView,
    /// Its wakes that the ledger remembers, the newest first.
    pub wakes: Vec<LedgerEntry>,
    /// The holds by which its workload keeps it awake, by task.
    pub holds: Vec<HoldView>,
}

/// What an action has done.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct Done {
    /// The instance's id.
    pub id: String,
    /// The instance's name.
    pub name: String,
    /// `woken`, `awake` (it was already), `asleep`, or `breaker_reset`.
    pub outcome: &'static str,
    /// Milliseconds that it took.
    pub took_ms: f64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn condition<S: serde::Serializer>(
    condition: &InstanceCondition,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.serialize_str(condition.as_str())
}

// === impl InstanceCounts ===

impl InstanceCounts {
    /// Counts one more.
    pub fn add(&mut self, condition: InstanceCondition) {
        *match condition {
            InstanceCondition::Awake => &mut self.awake,
            InstanceCondition::Waking => &mut self.waking,
            InstanceCondition::Asleep => &mut self.asleep,
            InstanceCondition::Stopped => &mut self.stopped,
            InstanceCondition::Failing => &mut self.failing,
        } += 1;
    }

    /// Each with its state.
    pub fn by_condition(self) -> Vec<(InstanceCondition, usize)> {
        vec![
            (InstanceCondition::Awake, self.awake),
            (InstanceCondition::Waking, self.waking),
            (InstanceCondition::Asleep, self.asleep),
            (InstanceCondition::Stopped, self.stopped),
            (InstanceCondition::Failing, self.failing),
        ]
    }
}
