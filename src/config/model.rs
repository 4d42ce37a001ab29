//! The typed configuration and its defaults.
//!
//! Guarantees: every field is set and in range, and every limit has a default. Serialising gives
//! TOML that loads back to the same value, secrets left out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::route::{ReadyWhen, RouteConfig};
use super::secret::Secret;
use super::shape::GoText;
use super::telemetry::{LogConfig, MetricsConfig, TracingConfig};
use super::tls::TlsConfig;
use super::values::{ByteSize, Rate};
use hypeman::GoDuration;

pub(super) fn go_text<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&GoDuration::from(*value))
}

/// The whole configuration of a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Config {
    /// What each connection from a client may do.
    pub server: ServerConfig,
    /// The wake engine and its hold queue.
    pub wake: WakeConfig,
    /// Connections to instances.
    pub upstream: UpstreamConfig,
    /// What the gateway adds to responses.
    pub response: ResponseConfig,
    /// Logs.
    pub log: LogConfig,
    /// Metrics.
    pub metrics: MetricsConfig,
    /// Traces.
    pub tracing: TracingConfig,
    /// The operator's listener.
    pub admin: AdminConfig,
    /// Routes that the control planes declare.
    pub ingress: IngressConfig,
    /// The control planes, at least one.
    pub hypeman: Vec<HypemanConfig>,
    /// The sockets, at least one.
    pub listener: Vec<ListenerConfig>,
    /// The routes, at least one.
    // Shared with all that follow them: there may be a hundred thousand.
    #[schemars(with = "Vec<RouteConfig>")]
    pub route: Vec<Arc<RouteConfig>>,
    /// Variables with a setting's name that were not read, since Kubernetes had put a Service there.
    #[serde(skip)]
    pub ignored_variables: Vec<String>,
}

/// One control plane.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct HypemanConfig {
    /// What routes call it.
    pub name: String,
    /// Base URL, `http` or `https`, without a trailing slash.
    pub url: String,
    /// Where its API key is read from, again after each 401.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// The key itself, from `HYPEMAN_API_KEY`.
    #[serde(skip)]
    pub api_key: Option<Secret>,
    /// Longest time to open a connection to it.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub connect_timeout: Duration,
    /// Longest time for a call that should be quick.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub request_timeout: Duration,
    /// Longest time for one restore or start; the server itself gives up at 60 s.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub restore_timeout: Duration,
}

/// One socket for clients.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ListenerConfig {
    /// IP address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// What its connections carry.
    #[serde(flatten)]
    pub mode: ListenerMode,
    /// Whether trusted peers (`server.trusted_proxies`) begin with a PROXY header that names their
    /// client; then they must.
    pub proxy_protocol: bool,
    /// TLS, with these certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

/// What a listener's connections carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "mode", rename_all = "kebab-case")]
pub enum ListenerMode {
    /// HTTP, over TLS where the listener has certificates.
    Http,
    /// TLS that the instance terminates: routed by the client's SNI.
    TlsPassthrough,
    /// Anything: every connection is for this host's route.
    Tcp {
        /// The host, as a `[[route]]` knows it.
        host: Arc<str>,
    },
}

/// The control planes' own ingress resources.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct IngressConfig {
    /// Whether they are served.
    pub watch: bool,
    /// How often they are looked at.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub interval: Duration,
    /// Where the ports that they ask for are opened.
    pub address: IpAddr,
    /// Certificates for rules that ask for TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

/// Limits on clients' connections.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ServerConfig {
    /// Open connections in all; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Of these, one client's (an IPv4 address or IPv6 /56); trusted proxies have no such limit.
    pub max_connections_per_client: usize,
    /// Longest time for a request's head, and longest idle time between requests.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
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
    #[schemars(with = "GoText")]
    pub drain_timeout: Duration,
    /// How long a drain lets a connection that is idle, or has not said anything yet, ask once
    /// more. Closing it at once would cross with a request that is on its way.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub drain_idle_timeout: Duration,
    /// Peers whose forwarding headers are believed and extended; others' are replaced.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
}

/// Limits on clients' HTTP/2 connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Http2Config {
    /// Requests at once on a connection.
    pub max_streams: u32,
    /// Requests that a client has taken back before they were looked at; more end the connection.
    pub max_pending_resets: usize,
    /// Requests that were refused for a client's mistakes; more end the connection.
    pub max_error_resets: usize,
    /// A connection without a request for so long is told to go.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub idle_timeout: Duration,
}

/// The wake engine and its hold queue.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WakeConfig {
    /// How long a request is held at most, unless its route says otherwise.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub timeout: Duration,
    /// Held requests per instance; 0 sheds all.
    pub max_held_per_instance: usize,
    /// Held requests per route, unless the route says otherwise; 0 sheds all.
    pub max_held_per_route: usize,
    /// Held requests in all; 0 sheds all.
    pub max_held: usize,
    /// Bytes of held request heads in all; 0 sheds all.
    pub max_held_bytes: usize,
    /// Whether a Stopped instance is started, unless its route says otherwise.
    pub start_stopped: bool,
    /// A lease not confirmed for this long is read again while in use, and is void while not.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub verify_interval: Duration,
    /// Failed wakes in a row before the breaker opens.
    pub breaker_failures: u32,
    /// The breaker's longest pause; it starts at a second and doubles.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub breaker_max_delay: Duration,
    /// How long an unknown instance name is remembered as unknown.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub unknown_ttl: Duration,
    /// Unknown names remembered at most.
    pub max_unknown: usize,
    /// Unknown names that one client (an IPv4 /24 or IPv6 /56) may ask for.
    pub unknown_per_client: Rate,
    /// What a held request waits for, unless its route says otherwise.
    pub ready: ReadyWhen,
    /// Restores and starts at once per control plane; the rest wait their turn.
    pub max_concurrent: usize,
    /// Other calls at once per control plane.
    pub max_questions: usize,
    /// An open connection without a byte either way for this long makes the gateway ask whether its
    /// instance is still awake.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub stall_timeout: Duration,
    /// The longest that an application may ask to stay awake for with `x-wakegate-hold`.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub max_hold: Duration,
    /// Wakes of one instance in a minute that count as thrash.
    pub thrash_per_minute: u32,
    /// Wakes that the ledger remembers.
    pub ledger: usize,
    /// While released requests' first responses are outstanding, the next are released after this
    /// long in any case.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub ramp_step: Duration,
}

/// Connections to instances.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct UpstreamConfig {
    /// The one instance behind a sidecar: what no `[[route]]` takes goes there.
    #[serde(skip_serializing)]
    pub instance: Option<String>,
    /// Its port.
    #[serde(skip_serializing)]
    pub port: u16,
    /// Longest time to open a connection to an instance believed awake.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub connect_timeout: Duration,
    /// Longest time from the request's end to the response's head.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub response_timeout: Duration,
    /// An idle connection is closed after this, or a quarter of the instance's own idle timeout.
    #[serde(serialize_with = "go_text")]
    #[schemars(with = "GoText")]
    pub idle_timeout: Duration,
    /// Idle connections kept per instance and port.
    pub max_idle: usize,
}

/// What the gateway adds to proxied responses.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ResponseConfig {
    /// `Server-Timing: wake;dur=…`.
    pub server_timing: bool,
    /// `x-wakegate-wake: warm|cold|joined`.
    pub wake_header: bool,
}

/// The operator's listener.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct AdminConfig {
    /// IP address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// A file with the token that `/api` asks for. Needed where `address` is not this machine's own (loopback).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The token itself; better give `token_file`.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub token: Option<Secret>,
    /// Whether `/` is the dashboard.
    pub dashboard: bool,
    /// Whether the control planes are asked now and then which instances they have, for the dashboard and the
    /// metrics; requests never wait for it.
    pub observe: bool,
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// All its variants' keys beside each other; which go together, the reader says.
impl JsonSchema for ListenerMode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ListenerMode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "properties": {
            "mode": {
                "enum": ["http", "tls-passthrough", "tcp"],
                "description": "What the listener's connections carry.",
            },
            "host": {
                "type": "string",
                "description": "With `mode = \"tcp\"`: whose route takes its connections.",
            },
        }})
    }
}

impl HypemanConfig {
    /// The same, as the client takes it.
    pub fn to_client_config(&self) -> hypeman::Config {
        hypeman::Config {
            url: self.url.clone(),
            api_key_file: self.api_key_file.clone(),
            api_key: self
                .api_key
                .as_ref()
                .map(|key| hypeman::ApiKey::new(key.reveal())),
            connect_timeout: self.connect_timeout,
            request_timeout: self.request_timeout,
            restore_timeout: self.restore_timeout,
            user_agent: concat!("wakegate/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl Default for HypemanConfig {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            url: "http://127.0.0.1:4973".to_owned(),
            api_key_file: None,
            api_key: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            restore_timeout: Duration::from_secs(58),
        }
    }
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            address: loopback(8080),
            mode: ListenerMode::Http,
            proxy_protocol: false,
            tls: None,
        }
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
        }
    }
}

impl ServerConfig {
    /// Whether a peer's word about its client is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies
            .iter()
            .any(|network| network.contains(&peer))
    }
}

impl WakeConfig {
    /// Whether the other differs only in what can change while the gateway runs.
    pub fn is_like(&self, other: &Self) -> bool {
        let same = Self {
            timeout: self.timeout,
            start_stopped: self.start_stopped,
            ready: self.ready,
            max_held_per_instance: self.max_held_per_instance,
            max_held_per_route: self.max_held_per_route,
            max_held: self.max_held,
            max_held_bytes: self.max_held_bytes,
            ..other.clone()
        };
        *self == same
    }
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            watch: false,
            interval: Duration::from_secs(2),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tls: None,
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

impl Default for WakeConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            max_held_per_instance: 10_000,
            max_held_per_route: 50_000,
            max_held: 100_000,
            max_held_bytes: 256 * 1024 * 1024,
            start_stopped: false,
            verify_interval: Duration::from_secs(30),
            breaker_failures: 3,
            breaker_max_delay: Duration::from_secs(30),
            unknown_ttl: Duration::from_secs(2),
            max_unknown: 10_000,
            unknown_per_client: Rate {
                count: NonZeroU32::MIN.saturating_add(59),
                per: Duration::from_secs(60),
            },
            ready: ReadyWhen::Port,
            max_concurrent: 16,
            max_questions: 64,
            stall_timeout: Duration::from_secs(10),
            max_hold: Duration::from_secs(3600),
            thrash_per_minute: 6,
            ledger: 1000,
            ramp_step: Duration::from_millis(500),
        }
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            instance: None,
            port: 8080,
            connect_timeout: Duration::from_millis(250),
            response_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(4),
            max_idle: 256,
        }
    }
}

impl Default for ResponseConfig {
    fn default() -> Self {
        Self {
            server_timing: true,
            wake_header: true,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            address: loopback(9900),
            token_file: None,
            token: None,
            dashboard: true,
            observe: true,
        }
    }
}
