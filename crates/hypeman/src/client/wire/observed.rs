//! What a server observes of an instance: waits, auto-standby, resource use, paths in the guest.
//!
//! Guarantees: these types are only read; unknown members are kept all the same.

use jiff::Timestamp;

use super::members::Members;
use super::object::{Writer, member, object, request};
use super::open_enum::{AutoStandbyState, InstanceState};
use crate::duration::GoDuration;

/// The answer to a wait.
///
/// A wait has succeeded when `state` is the requested one. `timed_out` alone does not tell: a wait
/// for `Running` on an instance in standby ends at once and has not timed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitOutcome {
    /// The state at the end of the wait.
    pub state: InstanceState,
    /// Whether the time was up.
    pub timed_out: bool,
    /// The reason of [`InstanceState::Unknown`].
    pub state_error: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(WaitOutcome {
    required state;
    always timed_out;
    optional state_error;
});

/// What auto-standby is doing with an instance.
#[derive(Debug, Clone, PartialEq)]
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
    pub active_inbound_connections: u64,
    /// The way in which connections are counted.
    pub tracking_mode: String,
    /// The policy's idle time.
    pub idle_timeout: Option<GoDuration>,
    /// The time since which there is no connection.
    pub idle_since: Option<Timestamp>,
    /// The last time at which there was a connection.
    pub last_inbound_activity_at: Option<Timestamp>,
    /// The time at which the countdown ends.
    pub next_standby_at: Option<Timestamp>,
    /// The rest of the countdown.
    pub countdown_remaining: Option<GoDuration>,
    /// The end of the current hold. Older servers have no holds.
    pub hold_until: Option<Timestamp>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(AutoStandbyStatus {
    required status;
    always supported, configured, enabled, eligible, reason, active_inbound_connections,
        tracking_mode;
    optional idle_timeout, idle_since, last_inbound_activity_at, next_standby_at,
        countdown_remaining, hold_until;
});

/// The resource use of an instance.
#[derive(Debug, Clone, PartialEq)]
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
    pub memory_utilization_ratio: Option<f64>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(InstanceStats {
    required instance_id;
    always instance_name, cpu_seconds, memory_rss_bytes, memory_vms_bytes, network_rx_bytes,
        network_tx_bytes, allocated_vcpus, allocated_memory_bytes;
    optional memory_utilization_ratio;
});

/// A path in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// Whether there is anything at the path.
    pub exists: bool,
    /// The reason why the guest could not look.
    pub error: Option<String>,
    /// Whether the path is a directory.
    pub is_dir: bool,
    /// Whether the path is a regular file.
    pub is_file: bool,
    /// Whether the path is a symbolic link.
    pub is_symlink: bool,
    /// The target of the symbolic link.
    pub link_target: Option<String>,
    /// The Unix mode bits.
    pub mode: u32,
    /// The size in bytes.
    pub size: i64,
    /// The members that this version does not know.
    pub other: Members,
}

object!(PathInfo {
    required exists;
    always is_dir, is_file, is_symlink, mode, size;
    optional error, link_target;
});
