//! What a server says about itself.
//!
//! Guarantees: everything is optional, since older servers lack parts of it.

use super::members::Members;
use super::object::{Writer, member, object, request};

/// What a server is and can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// The server's program.
    pub server: Option<ServerInfo>,
    /// The server's host.
    pub host: Option<HostInfo>,
    /// The runtime that an instance gets unless its request names one.
    pub default_runtime: Option<RuntimeInfo>,
    /// The runtimes that the server knows.
    pub runtimes: Vec<RuntimeInfo>,
    /// The network of the instances.
    pub network: Option<NetworkInfo>,
    /// The images that the server can run.
    pub images: Option<ImageInfo>,
    /// The names of the server's features.
    pub features: Vec<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(Capabilities {
    optional server, host, default_runtime, network, images;
    each runtimes, features;
});

/// The program of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerInfo {
    /// The version of the program.
    pub version: Option<String>,
    /// The version of its API.
    pub api_version: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(ServerInfo {
    optional version, api_version;
});

/// The host of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostInfo {
    /// The operating system.
    pub os: Option<String>,
    /// The processor architecture.
    pub arch: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(HostInfo {
    optional os, arch;
});

/// A runtime of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeInfo {
    /// The name of the runtime.
    pub name: Option<String>,
    /// Whether the runtime works on this host.
    pub available: bool,
    /// The members that this version does not know, such as the runtime's features.
    pub other: Members,
}

object!(RuntimeInfo {
    always available;
    optional name;
});

/// The network of a server's instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkInfo {
    /// The model, `bridge` or `nat`.
    pub model: Option<String>,
    /// The address of the host in the network.
    pub gateway: Option<String>,
    /// The network of the instances.
    pub subnet: Option<String>,
    /// The members that this version does not know, such as whether guests reach each other.
    pub other: Members,
}

object!(NetworkInfo {
    optional model, gateway, subnet;
});

/// The images that a server can run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageInfo {
    /// The platforms, each as `os/arch`.
    pub platforms: Vec<String>,
    /// The platform that an instance gets unless its request names one.
    pub default_platform: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(ImageInfo {
    optional default_platform;
    each platforms;
});
