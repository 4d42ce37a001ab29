//! Requests about instances.
//!
//! Guarantees: a field that is not set is not sent, and the server's default holds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::instance::{Gpu, VolumeMount};
use super::members::Members;
use super::object::{Writer, member, request};
use super::open_enum::{EgressMode, Hypervisor, InstanceState};
use super::policy::{AutoStandbyPolicy, Compression, HealthCheck, RestartPolicy, SnapshotPolicy};
use super::redacted::RedactedMap;
use crate::duration::GoDuration;

/// A filter for the list of instances. An instance must match everything that is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListInstances {
    /// The state.
    pub state: Option<InstanceState>,
    /// The labels.
    pub tags: BTreeMap<String, String>,
}

/// A new instance. `name` and `image` are required.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CreateInstance {
    /// The name, unique on the server: at most 63 lower-case letters, digits and hyphens.
    pub name: String,
    /// The image that the instance runs.
    pub image: String,
    /// The image's platform as `os/arch`, the host's by default.
    pub platform: Option<String>,
    /// The base memory, such as `512MB`; 1 GB by default.
    pub size: Option<String>,
    /// The additional memory that the guest may get, none by default.
    pub hotplug_size: Option<String>,
    /// The size of the writable disk, 10 GB by default.
    pub overlay_size: Option<String>,
    /// The number of virtual processors, 2 by default.
    pub vcpus: Option<u32>,
    /// The limit of disk traffic, such as `100MB/s`.
    pub disk_io_bps: Option<String>,
    /// The environment of the program. The server gives it back in clear; `Debug` masks the values.
    pub env: RedactedMap,
    /// The secrets that the host's egress proxy puts into the guest's requests, by name.
    pub credentials: BTreeMap<String, Credential>,
    /// The labels, at most 50.
    pub tags: BTreeMap<String, String>,
    /// The time after which the server deletes the instance. Not together with `expires_at`.
    pub ttl: Option<GoDuration>,
    /// The time at which the server deletes the instance.
    pub expires_at: Option<Timestamp>,
    /// The network; an instance has one by default.
    pub network: Option<NetworkRequest>,
    /// The host's devices that the guest gets, by id or name.
    pub devices: Vec<String>,
    /// The virtual GPU.
    pub gpu: Option<Gpu>,
    /// The volumes to mount.
    pub volumes: Vec<VolumeMount>,
    /// The hypervisor, the server's choice by default.
    pub hypervisor: Option<Hypervisor>,
    /// The policy for standby snapshots.
    pub snapshot_policy: Option<SnapshotPolicy>,
    /// The policy that puts the idle instance to sleep.
    pub auto_standby: Option<AutoStandbyPolicy>,
    /// The health check.
    pub health_check: Option<HealthCheck>,
    /// The policy for a program that has ended.
    pub restart_policy: Option<RestartPolicy>,
    /// Whether the guest has no kernel headers.
    pub skip_kernel_headers: Option<bool>,
    /// Whether the guest has no agent. No path can be looked at then, and no command can check it.
    pub skip_guest_agent: Option<bool>,
    /// The entry point, which replaces the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The command, which replaces the image's.
    pub cmd: Option<Vec<String>>,
    /// Members that this version does not know.
    pub other: Members,
}

request!(CreateInstance {
    always name, image;
    optional platform, size, hotplug_size, overlay_size, vcpus, disk_io_bps, ttl, expires_at,
        network, gpu, hypervisor, snapshot_policy, auto_standby, health_check, restart_policy,
        skip_kernel_headers, skip_guest_agent, entrypoint, cmd;
    each env, credentials, tags, devices, volumes;
});

/// The network of a new instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRequest {
    /// Whether the instance has a network, which it has by default.
    pub enabled: bool,
    /// The download limit, such as `1Gbps` or `125MB/s`.
    pub bandwidth_download: Option<String>,
    /// The upload limit, such as `1Gbps` or `125MB/s`.
    pub bandwidth_upload: Option<String>,
    /// The host's egress proxy.
    pub egress: Option<Egress>,
    /// Members that this version does not know.
    pub other: Members,
}

request!(NetworkRequest {
    always enabled;
    optional bandwidth_download, bandwidth_upload, egress;
});

impl Default for NetworkRequest {
    fn default() -> Self {
        Self {
            enabled: true,
            bandwidth_download: None,
            bandwidth_upload: None,
            egress: None,
            other: Members::default(),
        }
    }
}

/// The host's egress proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Egress {
    /// Whether the guest's requests go through the proxy.
    pub enabled: bool,
    /// The traffic that may only leave through the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforcement: Option<EgressEnforcement>,
}

/// The traffic that may only leave through the egress proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EgressEnforcement {
    /// The kind of traffic.
    pub mode: EgressMode,
}

/// A secret that stays on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Credential {
    /// The source of the secret.
    pub source: CredentialSource,
    /// The requests that the secret is put into.
    pub inject: Vec<CredentialInject>,
}

/// The source of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialSource {
    /// The key in `env` whose value is the secret.
    pub env: String,
}

/// The requests that a credential is put into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CredentialInject {
    /// The hosts, all of them when this is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The header that carries the secret.
    #[serde(rename = "as")]
    pub target: InjectAs,
}

/// The header that carries a credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InjectAs {
    /// The header's name.
    pub header: String,
    /// The header's value, in which the literal `${value}` stands for the secret.
    pub format: String,
}

/// A change of an instance. What is not set stays; what is set is replaced as a whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UpdateInstance {
    /// New values of environment variables. Only those that a credential uses can be changed, and
    /// only while the instance runs.
    pub env: Option<RedactedMap>,
    /// The policy that puts the idle instance to sleep.
    pub auto_standby: Option<AutoStandbyPolicy>,
    /// The health check.
    pub health_check: Option<HealthCheck>,
    /// The policy for a program that has ended.
    pub restart_policy: Option<RestartPolicy>,
    /// The time from now after which the server deletes the instance; zero means never. Not
    /// together with `expires_at`.
    pub ttl: Option<GoDuration>,
    /// The time at which the server deletes the instance, in the future.
    pub expires_at: Option<Timestamp>,
    /// Members that this version does not know.
    pub other: Members,
}

request!(UpdateInstance {
    optional auto_standby, health_check, restart_policy, ttl, expires_at;
    each env;
});

/// The options of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteInstance {
    /// Whether the guest is asked to shut down and has a moment for it. What a server does when
    /// this is not set is its own choice; recent ones ask. Older servers ignore the option.
    pub graceful_shutdown: Option<bool>,
}

/// The options of a standby.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StandbyRequest {
    /// The compression of this snapshot; the instance's policy by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// The time between the standby and its compression; the instance's policy by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_delay: Option<GoDuration>,
}

/// The options of a start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StartRequest {
    /// The entry point from this boot on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command from this boot on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
}

/// A copy of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ForkInstance {
    /// The copy's name.
    pub name: String,
    /// Whether the source may be running. The server pauses it for a moment then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub from_running: bool,
    /// The copy's state, the source's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_state: Option<InstanceState>,
}

/// A volume to attach.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AttachVolume {
    /// The absolute path in the guest.
    pub mount_path: String,
    /// Whether the guest cannot write to the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readonly: Option<bool>,
}
