//! What a server says about itself.
//!
//! Guarantees: everything is optional, since older servers lack parts of it.

use serde::{Deserialize, Serialize};

use super::members::Members;
use super::null::nullable;

/// What a server is and can do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// The server's program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerInfo>,
    /// The server's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostInfo>,
    /// The runtime that an instance gets unless its request names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_runtime: Option<RuntimeInfo>,
    /// The runtimes that the server knows.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub runtimes: Vec<RuntimeInfo>,
    /// The network of the instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkInfo>,
    /// The images that the server can run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageInfo>,
    /// The names of the server's features.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub features: Vec<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// The program of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The version of the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version of its API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// The host of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostInfo {
    /// The operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// The processor architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}

/// A runtime of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuntimeInfo {
    /// The name of the runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the runtime works on this host.
    #[serde(default, deserialize_with = "nullable")]
    pub available: bool,
    /// The members that this version does not know, such as the runtime's features.
    #[serde(flatten)]
    pub other: Members,
}

/// The network of a server's instances.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// The model, `bridge` or `nat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The address of the host in the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The network of the instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The members that this version does not know, such as whether guests reach each other.
    #[serde(flatten)]
    pub other: Members,
}

/// The images that a server can run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The platforms, each as `os/arch`.
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub platforms: Vec<String>,
    /// The platform that an instance gets unless its request names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_platform: Option<String>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Members,
}
