//! The limits on clients' connections, typed.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use super::duration_text::go_text;
#[cfg(test)]
use super::shape::GoText;
use super::values::ByteSize;

/// Limits on clients' connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct ServerConfig {
    /// Open connections in all; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Of these, one client's (an IPv4 address or IPv6 /56); trusted proxies have no such limit.
    pub max_connections_per_client: usize,
    /// Longest time for a request's head, and longest idle time between requests.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub header_timeout: Duration,
    /// Bytes of a request's head.
    pub max_header_bytes: usize,
    /// Header fields of a request.
    pub max_headers: usize,
    /// Bytes a second that a request's body must come with, after its first five seconds and until
    /// its response begins; 0 asks nothing. gRPC streams may be silent.
    pub min_body_rate: ByteSize,
    /// HTTP/2 from clients.
    pub http2: Http2Config,
    /// Whether another gateway may listen at the same addresses, to take over.
    pub reuse_port: bool,
    /// Whether the configuration's file is loaded again when it has changed.
    pub watch: bool,
    /// How long a drain waits before it cuts what is left.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub drain_timeout: Duration,
    /// How long a drain lets a connection that is idle, or has not said anything yet, ask once
    /// more. Closing it at once would cross with a request that is on its way.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub drain_idle_timeout: Duration,
    /// Peers whose forwarding headers are believed and extended; others' are replaced.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub trusted_proxies: Vec<IpNet>,
    /// Which messages name the gateway in `Via`. A request that names it already goes in a circle.
    pub via: ViaConfig,
    /// The port that `redirect_http` sends clients to, where they do not reach TLS at a listener's
    /// own: a container's ports, say, have other numbers outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_port: Option<u16>,
}

/// Which messages name the gateway in `Via` (RFC 9110 §7.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ViaConfig {
    /// Requests, as the RFC wants of a gateway.
    Requests,
    /// Requests and responses.
    Both,
    /// None. Requests that go in a circle are not recognized then.
    Off,
}

/// Limits on clients' HTTP/2 connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct Http2Config {
    /// Requests at once on a connection.
    pub max_streams: u32,
    /// Requests that a client has taken back before they were looked at; more end the connection.
    pub max_pending_resets: usize,
    /// Requests that were refused for a client's mistakes; more end the connection.
    pub max_error_resets: usize,
    /// A connection without a request for this long gets a GOAWAY frame.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub idle_timeout: Duration,
}

// === impl ServerConfig ===

impl ServerConfig {
    /// Whether a peer's word about its client is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies
            .iter()
            .any(|network| network.contains(&peer))
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            max_connections_per_client: 4096,
            header_timeout: Duration::from_secs(60),
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            min_body_rate: ByteSize(240),
            http2: Http2Config::default(),
            reuse_port: false,
            watch: true,
            drain_timeout: Duration::from_secs(30),
            drain_idle_timeout: Duration::from_secs(1),
            trusted_proxies: Vec::new(),
            via: ViaConfig::Requests,
            https_port: None,
        }
    }
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            max_streams: 128,
            max_pending_resets: 20,
            max_error_resets: 256,
            idle_timeout: Duration::from_secs(180),
        }
    }
}
