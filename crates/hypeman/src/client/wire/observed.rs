//! What a server observes of an instance: waits, auto-standby, resource use, paths in the guest.
//!
//! Guarantees: these types are only read; unknown members are kept all the same.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::members::Members;
use super::null::nullable;
use super::open_enum::{AutoStandbyState, InstanceState};
use crate::duration::GoDuration;

/// The answer to a wait.
///
/// A wait has succeeded when `state` is the requested one. `timed_out` alone does not tell: a wait
/// for `Running` on an instance in standby ends at once and has not timed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitOutcome {
    /// The state at the end of the wait.
    pub state: InstanceState,
    /// Whether the time was up.
    #[serde(default, deserialize_with = "nullable")]
    pub timed_out: bool,
    /// The reason of [`InstanceState::Unknown`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_error: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// What auto-standby is doing with an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoStandbyStatus {
    /// Whether the server's platform can count connections.
    pub supported: bool,
    /// Whether the instance has a policy.
    pub configured: bool,
    /// Whether that policy is on.
    pub enabled: bool,
    /// Whether the policy applies now. True proves that the instance is running.
    pub eligible: bool,
    /// What auto-standby is doing.
    pub status: AutoStandbyState,
    /// The reason of `status`, such as `idle_timeout_not_elapsed`.
    pub reason: String,
    /// The number of open connections that count as activity.
    #[serde(default, deserialize_with = "nullable")]
    pub active_inbound_connections: u64,
    /// The way in which connections are counted.
    #[serde(default, deserialize_with = "nullable")]
    pub tracking_mode: String,
    /// The policy's idle time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GoDuration>,
    /// The time since which there is no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_since: Option<Timestamp>,
    /// The last time at which there was a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_inbound_activity_at: Option<Timestamp>,
    /// The time at which the countdown ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_standby_at: Option<Timestamp>,
    /// The rest of the countdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub countdown_remaining: Option<GoDuration>,
    /// The end of the current hold. Older servers have no holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_until: Option<Timestamp>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// The resource use of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceStats {
    /// The instance's full id.
    pub instance_id: String,
    /// The instance's name.
    pub instance_name: String,
    /// The processor time so far, in seconds.
    pub cpu_seconds: f64,
    /// The resident memory.
    pub memory_rss_bytes: i64,
    /// The address space.
    pub memory_vms_bytes: i64,
    /// The bytes that the instance has received.
    pub network_rx_bytes: i64,
    /// The bytes that the instance has sent.
    pub network_tx_bytes: i64,
    /// The number of virtual processors.
    pub allocated_vcpus: i64,
    /// The memory that the instance may use.
    pub allocated_memory_bytes: i64,
    /// The resident part of the allocated memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_utilization_ratio: Option<f64>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// A path in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// Whether there is anything at the path.
    pub exists: bool,
    /// The reason why the guest could not look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the path is a directory.
    #[serde(default, deserialize_with = "nullable")]
    pub is_dir: bool,
    /// Whether the path is a regular file.
    #[serde(default, deserialize_with = "nullable")]
    pub is_file: bool,
    /// Whether the path is a symbolic link.
    #[serde(default, deserialize_with = "nullable")]
    pub is_symlink: bool,
    /// The target of the symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_target: Option<String>,
    /// The Unix mode bits.
    #[serde(default, deserialize_with = "nullable")]
    pub mode: u32,
    /// The size in bytes.
    #[serde(default, deserialize_with = "nullable")]
    pub size: i64,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}
