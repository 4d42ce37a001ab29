//! What we send about instances (contract A.6). Absent fields take the server's defaults.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::instance::VolumeMount;
use super::policy::{AutoStandbyPolicy, Compression, HealthCheck, RestartPolicy, SnapshotPolicy};
use super::redacted::RedactedMap;
use super::{Hypervisor, InstanceState};
use crate::GoDuration;

/// A filter for the list of instances; all that is set must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListInstances {
    /// In this state.
    pub state: Option<InstanceState>,
    /// With all of these tags.
    pub tags: BTreeMap<String, String>,
}

/// A new instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CreateInstance {
    /// Unique name.
    pub name: String,
    /// What it runs.
    pub image: String,
    /// `os/arch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Base memory, such as `512MB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Extra memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hotplug_size: Option<String>,
    /// Writable disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlay_size: Option<String>,
    /// CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Disk rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_io_bps: Option<String>,
    /// Environment.
    #[serde(skip_serializing_if = "RedactedMap::is_empty")]
    pub env: RedactedMap,
    /// Secrets that the host's egress proxy puts into the guest's requests.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, Credential>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Deleted after this; not together with `expires_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<GoDuration>,
    /// Deleted then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Its network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkRequest>,
    /// Devices passed through.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Its GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<super::Gpu>,
    /// Its volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeMount>,
    /// What runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<Hypervisor>,
    /// Snapshot policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_policy: Option<SnapshotPolicy>,
    /// Auto-standby policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_standby: Option<AutoStandbyPolicy>,
    /// Health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Restart policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Leave kernel headers out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_kernel_headers: Option<bool>,
    /// Leave the guest agent out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_guest_agent: Option<bool>,
    /// Replaces the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
}

/// A new instance's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkRequest {
    /// Whether it has one.
    pub enabled: bool,
    /// Such as `1Gbps` or `125MB/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_download: Option<String>,
    /// Such as `1Gbps` or `125MB/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_upload: Option<String>,
    /// The host's egress proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// The host's egress proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Egress {
    /// Whether it is used.
    pub enabled: bool,
    /// What else may leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<EgressEnforcement>,
}

/// What may leave beside the egress proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EgressEnforcement {
    /// `all` or `http_https_only`.
    pub mode: String,
}

/// A secret that stays on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credential {
    /// Where it comes from.
    pub source: CredentialSource,
    /// Where it goes.
    pub inject: Vec<CredentialInject>,
}

/// Where a credential comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialSource {
    /// A key of `env`.
    pub env: String,
}

/// Where a credential goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialInject {
    /// Only to these; to all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// As what.
    #[serde(rename = "as")]
    pub target: InjectAs,
}

/// As which header a credential goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InjectAs {
    /// Its name.
    pub header: String,
    /// Its value, with a literal `${value}` in it.
    pub format: String,
}

/// A change. Absent is unchanged, present is replaced as a whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct UpdateInstance {
    /// Only keys that a credential uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<RedactedMap>,
    /// Auto-standby policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_standby: Option<AutoStandbyPolicy>,
    /// Health check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Restart policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// From now; zero clears; not together with `expires_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<GoDuration>,
    /// In the future.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Options of a standby.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StandbyRequest {
    /// Compression of this snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// How long after standby compression begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_delay: Option<GoDuration>,
}

/// Options of a start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StartRequest {
    /// From this boot on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// From this boot on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
}

/// A copy of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForkInstance {
    /// The copy's name.
    pub name: String,
    /// Allow a running source.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub from_running: bool,
    /// The copy's state; the source's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_state: Option<InstanceState>,
}

/// A volume to attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachVolume {
    /// Where.
    pub mount_path: String,
    /// Whether it cannot be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
}
