//! The limits on clients' connections, typed.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use ipnet::IpNet;
#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration_text::{go_text, optional_go_text};
use super::reader::Section;
use super::settings::{
    at_least, elsewhere, list, optional_port, section, settings, size_within, within, word_settings,
};
#[cfg(test)]
use super::shape::GoText;
use super::texts::parse_network;
use super::values::ByteSize;

/// More threads than any machine has processors for.
const MOST_WORKERS: usize = 1024;
/// A browser's cookies take half of it.
pub(super) const LEAST_HEADER_BYTES: usize = 8192;
/// With less, a handful of clients would get nothing through.
const LEAST_BUFFER: ByteSize = ByteSize(1 << 20);

settings! {
    /// Limits on clients' connections.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct ServerConfig {
        /// Threads that serve clients, each with its connections and its pools of connections to
        /// instances; all else has threads of its own. By default as many as there are processors.
        /// A change needs a restart.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub workers: Option<NonZeroUsize> = None, by workers;
        /// Open connections in all; more wait in the kernel's queue.
        pub max_connections: usize = 16_384, by at_least(1);
        /// Of these, one client's (an IPv4 address or IPv6 /56); trusted proxies have no such
        /// limit.
        pub max_connections_per_client: usize = 4096, by at_least(1);
        /// Longest time from the first byte of a head to its last: of a request's, of a PROXY
        /// header, of a TLS handshake, of HTTP/2's preface.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub header_timeout: Duration = Duration::from_secs(30);
        /// Longest time from the end of a connection's last exchange to the next head's first byte.
        /// Connections from trusted proxies have 620 seconds at least: a balancer must be the first
        /// to close one.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub idle_timeout: Duration = Duration::from_secs(75);
        /// Longest time that a client takes nothing of what is ready for it.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub send_timeout: Duration = Duration::from_secs(60);
        /// What becomes of a request whose client closes its side of the connection (a FIN) before
        /// it is answered. HTTP/1 alone.
        pub half_close: HalfClose = HalfClose::Abort;
        /// Bytes of a request's head.
        pub max_header_bytes: usize = 64 * 1024, by at_least(LEAST_HEADER_BYTES);
        /// Header fields of a request.
        pub max_headers: usize = 100, by at_least(1);
        /// Bytes a second that a request's body must come with, after its first five seconds and
        /// until its response begins; 0 asks nothing. gRPC streams may be silent.
        pub min_body_rate: ByteSize = ByteSize(240);
        /// Bytes of heads and bodies in the gateway's memory, in both directions and of all
        /// protocols; beyond them nothing more is read, and requests whose heads are large, or that
        /// are many on a connection, are refused. A client network has half of what is left once
        /// half is taken.
        pub max_buffered_bytes: ByteSize = ByteSize(128 << 20),
            by size_within(LEAST_BUFFER..=ByteSize(usize::MAX));
        /// Whether a route wants to know the letters of names as they came.
        #[serde(skip)]
        pub keeps_field_names: bool = false, by elsewhere;
        /// HTTP/2 from clients.
        pub http2: Http2Config = Http2Config::default(), by section;
        /// Whether another gateway may listen at the same addresses, to take over.
        pub reuse_port: bool = false;
        /// Whether the configuration's file is loaded again when it has changed.
        pub watch: bool = true;
        /// How long a drain waits before it cuts what is left.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub drain_timeout: Duration = Duration::from_secs(30);
        /// How long a drain lets a connection that is idle, or has not said anything yet, ask once
        /// more. Closing it at once would cross with a request that is on its way.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub drain_idle_timeout: Duration = Duration::from_secs(1);
        /// Peers whose forwarding headers are believed and extended; others' are replaced.
        #[cfg_attr(test, schemars(with = "Vec<String>"))]
        pub trusted_proxies: Vec<IpNet> = Vec::new(), by list(parse_network);
        /// Which messages name the gateway in `Via`. A request that names it already goes in a
        /// circle.
        pub via: ViaConfig = ViaConfig::Requests;
        /// The port that `redirect_http` sends clients to, where they do not reach TLS at a
        /// listener's own: a container's ports, say, have other numbers outside.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub https_port: Option<u16> = None, by optional_port;
    }
}

#[allow(
    clippy::option_option,
    reason = "one for whether there is a value, the other of the key's own type"
)]
fn workers(s: &mut Section<'_, '_>, key: &'static str) -> Option<Option<NonZeroUsize>> {
    within(1..=MOST_WORKERS)(s, key).map(NonZeroUsize::new)
}

word_settings!(HalfClose, ViaConfig);

/// Which messages name the gateway in `Via` (RFC 9110 §7.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
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

/// What it means that a client closes its side of a connection before its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HalfClose {
    /// It has left: nothing is woken for it, and nothing kept awake.
    Abort,
    /// It has said its last and waits for its answer, unless its connection was reset.
    Answer,
}

settings! {
    /// Limits on clients' HTTP/2 connections.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct Http2Config {
        /// Requests at once on a connection.
        pub max_streams: u32 = 128, by at_least(1);
        /// Requests that a client has taken back before they were looked at; more end the
        /// connection.
        pub max_pending_resets: usize = 20, by at_least(1);
        /// Requests that were refused for a client's mistakes; more end the connection.
        pub max_error_resets: usize = 256, by at_least(1);
        /// The old name of `server.idle_timeout`, which holds for HTTP/2 while it is given.
        #[serde(
            serialize_with = "optional_go_text",
            skip_serializing_if = "Option::is_none"
        )]
        #[cfg_attr(test, schemars(with = "Option<GoText>"))]
        pub idle_timeout: Option<Duration> = None;
    }
}

/// How long an idle connection of a trusted proxy is kept at least. Balancers close idle
/// connections after 60 s (AWS) to 600 s (Google); a request that crosses with our close would be
/// lost.
const PROXY_IDLE_TIMEOUT: Duration = Duration::from_secs(620);

// === impl ServerConfig ===

impl ServerConfig {
    /// How long a connection of HTTP/1 from `peer` may be idle.
    pub fn idle_timeout_of(&self, peer: IpAddr) -> Duration {
        match self.trusts(peer) {
            true => self.idle_timeout.max(PROXY_IDLE_TIMEOUT),
            false => self.idle_timeout,
        }
    }

    /// How long a connection of HTTP/2 from `peer` may be idle.
    pub fn h2_idle_timeout_of(&self, peer: IpAddr) -> Duration {
        let own = self.http2.idle_timeout;
        own.unwrap_or_else(|| self.idle_timeout_of(peer))
    }

    /// Whether a peer's word about its client is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies
            .iter()
            .any(|network| network.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trusted_proxys_connections_outlive_what_balancers_keep() {
        let mut server = ServerConfig {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..ServerConfig::default()
        };
        let [proxy, client] = [[10, 1, 2, 3], [192, 0, 2, 1]].map(IpAddr::from);
        assert_eq!(server.idle_timeout_of(client), Duration::from_secs(75));
        assert_eq!(server.idle_timeout_of(proxy), Duration::from_secs(620));
        assert_eq!(server.h2_idle_timeout_of(proxy), Duration::from_secs(620));
        server.idle_timeout = Duration::from_secs(3600);
        assert_eq!(server.idle_timeout_of(proxy), Duration::from_secs(3600));
        server.http2.idle_timeout = Some(Duration::from_secs(9));
        assert_eq!(server.h2_idle_timeout_of(client), Duration::from_secs(9));
    }
}
