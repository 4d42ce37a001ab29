//! Policies, which have the same shape in requests and answers.
//!
//! Guarantees: a policy that was read can be changed and sent; members that this version does not
//! know go with it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::members::Members;
use super::null::nullable;
use super::open_enum::{CompressionAlgorithm, HealthCheckKind, RestartMode};
use crate::duration::GoDuration;

/// When an idle instance is put to sleep.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AutoStandbyPolicy {
    /// Whether the policy is on. A server drops the other fields of a policy that is off.
    #[serde(default, deserialize_with = "nullable")]
    pub enabled: bool,
    /// The time without a connection after which the instance is put to sleep. An enabled policy
    /// needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GoDuration>,
    /// The ports of the instance whose connections do not count as activity.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ignore_destination_ports: Vec<u16>,
    /// The networks from which connections do not count as activity.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub ignore_source_cidrs: Vec<IpNet>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// How a snapshot's memory is compressed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Compression {
    /// Whether the memory is compressed.
    pub enabled: bool,
    /// The algorithm, zstd by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<CompressionAlgorithm>,
    /// The level: 1-19 for zstd, 0-9 for lz4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// What happens to an instance's standby snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotPolicy {
    /// The compression of the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// The time between the standby and its compression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby_compression_delay: Option<GoDuration>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// How a server checks an instance's health.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The kind of check. A server infers it when exactly one of `http`, `tcp` and `exec` is set.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<HealthCheckKind>,
    /// The time between two checks, 10 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<GoDuration>,
    /// The time that one check may take, 2 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// The time after a boot or restore in which failures do not count, 30 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_period: Option<GoDuration>,
    /// The failures in a row that make an instance unhealthy, 3 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<u32>,
    /// The successes in a row that make an instance healthy, 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u32>,
    /// A check by an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// A check by a TCP connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// A check by a command in the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecCheck>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// A health check by an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HttpCheck {
    /// The port in the guest.
    pub port: u16,
    /// The path, `/` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The scheme, `http` (the default) or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The status of a healthy answer, 200 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_status: Option<u16>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// A health check by a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TcpCheck {
    /// The port in the guest.
    pub port: u16,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// A health check by a command in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExecCheck {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// What happens when an instance's program ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// When the program is started again, never by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<RestartMode>,
    /// The time between two attempts, 5 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<GoDuration>,
    /// The largest number of attempts; 0, the default, is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// The time of running after which attempts count from zero again, 10 m by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_after: Option<GoDuration>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}
