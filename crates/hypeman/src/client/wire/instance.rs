//! What a server says about an instance.
//!
//! Guarantees: only the members that every server version sends are required.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::members::Members;
use super::null::nullable;
use super::open_enum::{Health, Hypervisor, InstanceState};
use super::policy::{AutoStandbyPolicy, HealthCheck, RestartPolicy, SnapshotPolicy};
use super::redacted::RedactedMap;

/// An instance: a virtual machine that runs one image.
///
/// Only `id`, `name`, `image`, `state` and `created_at` come from every server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The full id, which never changes.
    pub id: String,
    /// The name, unique on the server.
    pub name: String,
    /// The image that the instance runs.
    pub image: String,
    /// The state, which the server derives on each read.
    pub state: InstanceState,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The time at which the server deletes the instance; it does not when this is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The image's platform as `os/arch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The hypervisor that runs the virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<Hypervisor>,
    /// The reason of [`InstanceState::Unknown`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_error: Option<String>,
    /// The base memory, formatted for people: it cannot be sent as a request's `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The additional memory, formatted for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<String>,
    /// The size of the writable disk, formatted for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay_size: Option<String>,
    /// The limit of disk traffic, formatted for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_io_bps: Option<String>,
    /// The number of virtual processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// The environment of the program. The wire carries it in clear; `Debug` masks the values.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "RedactedMap::is_empty"
    )]
    pub env: RedactedMap,
    /// The labels.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tags: BTreeMap<String, String>,
    /// The network, with the instance's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<InstanceNetwork>,
    /// The volumes that are mounted.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub volumes: Vec<VolumeMount>,
    /// The virtual GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// The time of the last start. A restore does not change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// The time of the last stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Timestamp>,
    /// The exit code of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The end of the program, described for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_message: Option<String>,
    /// Whether there is a standby snapshot.
    #[serde(default, deserialize_with = "nullable")]
    pub has_snapshot: bool,
    /// The policy for standby snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_policy: Option<SnapshotPolicy>,
    /// The policy that puts the idle instance to sleep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_standby: Option<AutoStandbyPolicy>,
    /// The health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// The health, on servers that have health checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_status: Option<HealthStatus>,
    /// The policy for a program that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// What the restart policy has done so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_status: Option<RestartStatus>,
    /// The milliseconds spent in each state so far, by the state's name in lower case.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub phase_durations_ms: BTreeMap<String, i64>,
    /// The current key of `phase_durations_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_phase: Option<String>,
    /// The time at which the current phase began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_phase_since: Option<Timestamp>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// The network of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct InstanceNetwork {
    /// Whether the instance has a network.
    #[serde(default, deserialize_with = "nullable")]
    pub enabled: bool,
    /// The name of the network, `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The IPv4 address. It is empty before the first allocation and out of date while the
    /// instance is stopped; a restore keeps it, a start and a fork change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The download limit, formatted for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_download: Option<String>,
    /// The upload limit, formatted for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_upload: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// A volume mounted in an instance, in requests and answers alike.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume's id.
    pub volume_id: String,
    /// The absolute path in the guest.
    pub mount_path: String,
    /// Whether the guest cannot write to it.
    #[serde(default, deserialize_with = "nullable")]
    pub readonly: bool,
    /// Whether writes go to an overlay; this needs `readonly` and `overlay_size`.
    #[serde(default, deserialize_with = "nullable")]
    pub overlay: bool,
    /// The size of the overlay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay_size: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// A virtual GPU, in requests and answers alike.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Gpu {
    /// The GPU's profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The mediated device, chosen by the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdev_uuid: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// The result of health checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// The verdict.
    pub status: Health,
    /// The number of successful checks in a row.
    #[serde(default, deserialize_with = "nullable")]
    pub consecutive_successes: u64,
    /// The number of failed checks in a row.
    #[serde(default, deserialize_with = "nullable")]
    pub consecutive_failures: u64,
    /// The time of the last check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checked_at: Option<Timestamp>,
    /// The time of the last successful check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success_at: Option<Timestamp>,
    /// The time of the last failed check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure_at: Option<Timestamp>,
    /// The reason of the last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// What the restart policy has done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestartStatus {
    /// The number of restarts so far.
    #[serde(default, deserialize_with = "nullable")]
    pub attempts: u64,
    /// The time of the last restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt_at: Option<Timestamp>,
    /// The time of the next restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// The reason why there will be no restart, such as `manual_stop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked_reason: Option<String>,
    /// The reason of the last restart, such as `health_check_failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reason: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}
