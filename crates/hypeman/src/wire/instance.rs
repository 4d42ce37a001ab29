//! What a server says about an instance (contract A.8).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::policy::{AutoStandbyPolicy, HealthCheck, RestartPolicy, SnapshotPolicy};
use super::redacted::RedactedMap;
use super::{AutoStandbyState, Health, Hypervisor, InstanceState, nullable};
use crate::GoDuration;

/// An instance. Only `id`, `name`, `image`, `state` and `created_at` come from every server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Full id.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// What it runs.
    pub image: String,
    /// Derived by the server on each read.
    pub state: InstanceState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it will be deleted; never when absent.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// `os/arch`.
    #[serde(default)]
    pub platform: Option<String>,
    /// What runs it.
    #[serde(default)]
    pub hypervisor: Option<Hypervisor>,
    /// Why the state is Unknown.
    #[serde(default)]
    pub state_error: Option<String>,
    /// Base memory, for people.
    #[serde(default)]
    pub size: Option<String>,
    /// Extra memory, for people.
    #[serde(default)]
    pub hotplug_size: Option<String>,
    /// Writable disk, for people.
    #[serde(default)]
    pub overlay_size: Option<String>,
    /// Disk rate, for people.
    #[serde(default)]
    pub disk_io_bps: Option<String>,
    /// CPUs.
    #[serde(default)]
    pub vcpus: Option<u32>,
    /// Environment, in clear on the wire.
    #[serde(default, deserialize_with = "nullable")]
    pub env: RedactedMap,
    /// Labels.
    #[serde(default, deserialize_with = "nullable")]
    pub tags: BTreeMap<String, String>,
    /// Its network.
    #[serde(default)]
    pub network: Option<InstanceNetwork>,
    /// Mounted volumes.
    #[serde(default, deserialize_with = "nullable")]
    pub volumes: Vec<VolumeMount>,
    /// Its GPU.
    #[serde(default)]
    pub gpu: Option<Gpu>,
    /// When it was last started; a restore does not change it.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it was last stopped.
    #[serde(default)]
    pub stopped_at: Option<Timestamp>,
    /// How its program ended.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// The same, for people.
    #[serde(default)]
    pub exit_message: Option<String>,
    /// Whether a snapshot exists.
    #[serde(default, deserialize_with = "nullable")]
    pub has_snapshot: bool,
    /// Snapshot policy.
    #[serde(default)]
    pub snapshot_policy: Option<SnapshotPolicy>,
    /// Auto-standby policy.
    #[serde(default)]
    pub auto_standby: Option<AutoStandbyPolicy>,
    /// Health check.
    #[serde(default)]
    pub health_check: Option<HealthCheck>,
    /// Health, on newer servers.
    #[serde(default)]
    pub health_status: Option<HealthStatus>,
    /// Restart policy.
    #[serde(default)]
    pub restart_policy: Option<RestartPolicy>,
    /// What the restart policy did.
    #[serde(default)]
    pub restart_status: Option<RestartStatus>,
    /// Milliseconds in each state so far, by lower-case state.
    #[serde(default, deserialize_with = "nullable")]
    pub phase_durations_ms: BTreeMap<String, i64>,
    /// The current one of these.
    #[serde(default)]
    pub current_phase: Option<String>,
    /// Since when.
    #[serde(default)]
    pub current_phase_since: Option<Timestamp>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An instance's network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceNetwork {
    /// Whether it has one.
    #[serde(deserialize_with = "nullable")]
    pub enabled: bool,
    /// Its name, `default`.
    pub name: Option<String>,
    /// IPv4 address; empty before the first allocation, stale while Stopped.
    pub ip: Option<String>,
    /// MAC address.
    pub mac: Option<String>,
    /// Rate limit, for people.
    pub bandwidth_download: Option<String>,
    /// Rate limit, for people.
    pub bandwidth_upload: Option<String>,
}

/// A volume in an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Which volume.
    pub volume_id: String,
    /// Where.
    pub mount_path: String,
    /// Whether it cannot be written.
    #[serde(default, deserialize_with = "nullable")]
    pub readonly: bool,
    /// Whether writes go to an overlay.
    #[serde(default, deserialize_with = "nullable")]
    pub overlay: bool,
    /// That overlay's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay_size: Option<String>,
}

/// A virtual GPU.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// Its profile.
    pub profile: Option<String>,
    /// Its device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdev_uuid: Option<String>,
}

/// The result of health checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// The verdict.
    pub status: Health,
    /// Good checks in a row.
    #[serde(default, deserialize_with = "nullable")]
    pub consecutive_successes: u64,
    /// Bad checks in a row.
    #[serde(default, deserialize_with = "nullable")]
    pub consecutive_failures: u64,
    /// Last check.
    #[serde(default)]
    pub last_checked_at: Option<Timestamp>,
    /// Last good one.
    #[serde(default)]
    pub last_success_at: Option<Timestamp>,
    /// Last bad one.
    #[serde(default)]
    pub last_failure_at: Option<Timestamp>,
    /// What was wrong.
    #[serde(default)]
    pub last_error: Option<String>,
}

/// What the restart policy did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartStatus {
    /// Restarts so far.
    #[serde(deserialize_with = "nullable")]
    pub attempts: u64,
    /// The last one.
    pub last_attempt_at: Option<Timestamp>,
    /// The next one.
    pub next_attempt_at: Option<Timestamp>,
    /// Why there will be none.
    pub blocked_reason: Option<String>,
    /// Why there was one.
    pub last_reason: Option<String>,
}

/// What `wait` answers: look at `state`, not at `timed_out` alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitOutcome {
    /// The state at the end of the wait.
    pub state: InstanceState,
    /// Whether the time was up.
    #[serde(default, deserialize_with = "nullable")]
    pub timed_out: bool,
    /// Why the state is Unknown.
    #[serde(default)]
    pub state_error: Option<String>,
}

/// What auto-standby is doing (contract B.5).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoStandbyStatus {
    /// Whether the platform can.
    pub supported: bool,
    /// Whether there is a policy.
    pub configured: bool,
    /// Whether it is on.
    pub enabled: bool,
    /// Whether it applies now: true proves Running.
    pub eligible: bool,
    /// What it is doing.
    pub status: AutoStandbyState,
    /// Why.
    pub reason: String,
    /// Connections that count.
    #[serde(default, deserialize_with = "nullable")]
    pub active_inbound_connections: u64,
    /// How connections are counted.
    #[serde(default, deserialize_with = "nullable")]
    pub tracking_mode: String,
    /// From the policy.
    #[serde(default)]
    pub idle_timeout: Option<GoDuration>,
    /// Since when there is no connection.
    #[serde(default)]
    pub idle_since: Option<Timestamp>,
    /// The last time there was one.
    #[serde(default)]
    pub last_inbound_activity_at: Option<Timestamp>,
    /// When the countdown ends.
    #[serde(default)]
    pub next_standby_at: Option<Timestamp>,
    /// How much of it is left.
    #[serde(default)]
    pub countdown_remaining: Option<GoDuration>,
    /// Until when a hold lasts; newer servers.
    #[serde(default)]
    pub hold_until: Option<Timestamp>,
}

/// Resource use of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStats {
    /// Full id.
    pub instance_id: String,
    /// Name.
    pub instance_name: String,
    /// CPU time so far.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub memory_rss_bytes: i64,
    /// Address space.
    pub memory_vms_bytes: i64,
    /// Bytes received.
    pub network_rx_bytes: i64,
    /// Bytes sent.
    pub network_tx_bytes: i64,
    /// CPUs it may use.
    pub allocated_vcpus: i64,
    /// Memory it may use.
    pub allocated_memory_bytes: i64,
    /// Resident of allowed memory.
    #[serde(default)]
    pub memory_utilization_ratio: Option<f64>,
}

/// A path in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// Whether it is there.
    pub exists: bool,
    /// Why it could not be looked at.
    #[serde(default)]
    pub error: Option<String>,
    /// A directory.
    #[serde(default, deserialize_with = "nullable")]
    pub is_dir: bool,
    /// A file.
    #[serde(default, deserialize_with = "nullable")]
    pub is_file: bool,
    /// A symbolic link.
    #[serde(default, deserialize_with = "nullable")]
    pub is_symlink: bool,
    /// Where that leads.
    #[serde(default)]
    pub link_target: Option<String>,
    /// Unix mode bits.
    #[serde(default, deserialize_with = "nullable")]
    pub mode: u32,
    /// Bytes.
    #[serde(default, deserialize_with = "nullable")]
    pub size: i64,
}
