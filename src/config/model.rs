//! The typed configuration and its defaults.
//!
//! Guarantees: every field is set and in range, and every limit has a default. Serialising gives
//! TOML that loads back to the same value, secrets left out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::acme::AcmeConfig;
use super::duration_text::{go_text, optional_go_text};
use super::fleet::{FleetConfig, FleetRole, read_fleet};
use super::route::RouteConfig;
use super::secret::Secret;
use super::server::{LEAST_HEADER_BYTES, ServerConfig};
use super::settings::{at_least, elsewhere, optional_text, port, section, settings, text};
#[cfg(test)]
use super::shape::GoText;
use super::telemetry::{LogConfig, MetricsConfig, TracingConfig};
use super::texts::{parse_instance, parse_url};
use super::tickets::TicketsConfig;
use super::tls::{TlsConfig, TlsSource};
use super::wake::WakeConfig;
use super::workload::WorkloadConfig;
use hypeman::InstanceRef;

settings! {
    /// The whole configuration of a gateway.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct Config {
        /// What each connection from a client may do.
        pub server: ServerConfig = ServerConfig::default(), by section;
        /// The wake engine and its hold queue.
        pub wake: WakeConfig = WakeConfig::default(), by section;
        /// Connections to instances.
        pub upstream: UpstreamConfig = UpstreamConfig::default(), by elsewhere;
        /// What the gateway adds to responses.
        pub response: ResponseConfig = ResponseConfig::default(), by section;
        /// Logs.
        pub log: LogConfig = LogConfig::default(), by section;
        /// Metrics.
        pub metrics: MetricsConfig = MetricsConfig::default(), by section;
        /// Certificates by ACME.
        pub acme: AcmeConfig = AcmeConfig::default(), by section;
        /// Keys of TLS session tickets.
        pub tickets: TicketsConfig = TicketsConfig::default(), by section;
        /// The fleet that the gateway belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub fleet: Option<FleetConfig> = None, by read_fleet;
        /// Traces.
        pub tracing: TracingConfig = TracingConfig::default(), by elsewhere;
        /// The operator's listener.
        pub admin: AdminConfig = AdminConfig::default(), by elsewhere;
        /// The door at which instances say that they are busy, or done.
        pub workload: WorkloadConfig = WorkloadConfig::default(), by section;
        /// Routes that the control planes declare.
        pub ingress: IngressConfig = IngressConfig::default(), by elsewhere;
        /// The control planes, at least one but at a front.
        pub hypeman: Vec<HypemanConfig> = Vec::new(), by elsewhere;
        /// The sockets, at least one but at a node.
        pub listener: Vec<ListenerConfig> = Vec::new(), by elsewhere;
        /// The routes, at least one but in a fleet.
        // Shared with all that follow them: there may be a hundred thousand.
        #[cfg_attr(test, schemars(with = "Vec<RouteConfig>"))]
        pub route: Vec<Arc<RouteConfig>> = Vec::new(), by elsewhere;
        /// Variables with a setting's name that were not read, since Kubernetes had put a Service
        /// there.
        #[serde(skip)]
        pub ignored_variables: Vec<String> = Vec::new(), by elsewhere;
        /// Variables of Hypeman's that look as if they were meant for the gateway and are of no use
        /// to it, and why not.
        #[serde(skip)]
        pub unused_variables: Vec<(String, String)> = Vec::new(), by elsewhere;
    }
}

settings! {
    /// One control plane.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct HypemanConfig {
        /// What routes call it.
        pub name: String = "default".to_owned();
        /// Base URL, `http` or `https`, without a trailing slash.
        pub url: String = "http://127.0.0.1:4973".to_owned(), by text(parse_url);
        /// Where its API key is read from, again after each 401.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub api_key_file: Option<PathBuf> = None;
        /// The key itself, from the environment: `HYPEMAN_API_KEY_` and the name in capitals, or
        /// `HYPEMAN_API_KEY` where there is no other control plane.
        #[serde(skip)]
        pub api_key: Option<Secret> = None, by elsewhere;
        /// Longest time to open a connection to it.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub connect_timeout: Duration = Duration::from_secs(2);
        /// Longest time for a call that should be quick.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub request_timeout: Duration = Duration::from_secs(10);
        /// Longest time for one restore or start; the server itself gives up at 60 s.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub restore_timeout: Duration = Duration::from_secs(58);
    }
}

/// One socket for clients.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
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
    /// Questions of other proxies: where a request's instance is, once it is awake.
    Wake,
    /// TLS that the instance terminates: routed by the client's SNI.
    TlsPassthrough,
    /// Anything: every connection is for this host's route.
    Tcp {
        /// The host, as a `[[route]]` knows it.
        host: Arc<str>,
    },
}

settings! {
    /// The control planes' own ingress resources.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct IngressConfig {
        /// Whether they are served.
        pub watch: bool = false;
        /// How often they are looked at.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub interval: Duration = Duration::from_secs(2);
        /// Where the ports that they ask for are opened.
        pub address: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        /// Certificates for rules that ask for TLS.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tls: Option<TlsConfig> = None, by elsewhere;
    }
}

settings! {
    /// Connections to instances.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct UpstreamConfig {
        /// The one instance behind a sidecar: what no `[[route]]` takes goes there.
        #[serde(skip_serializing)]
        #[cfg_attr(test, schemars(with = "Option<String>"))]
        pub instance: Option<InstanceRef> = None, by optional_text(parse_instance);
        /// Its port.
        #[serde(skip_serializing)]
        pub port: u16 = 8080, by port;
        /// Longest time to open a connection to an instance believed awake.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub connect_timeout: Duration = Duration::from_millis(250);
        /// Longest time from the request's last byte to the response's head; each 1xx response
        /// begins it anew. While a body is sent, longest time that the instance takes none of it.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub response_timeout: Duration = Duration::from_secs(300);
        /// Longest silence inside a response's body; none when nothing is said.
        #[serde(
            serialize_with = "optional_go_text",
            skip_serializing_if = "Option::is_none"
        )]
        #[cfg_attr(test, schemars(with = "Option<GoText>"))]
        pub read_timeout: Option<Duration> = None;
        /// An idle connection is closed after this, or a quarter of the instance's own idle
        /// timeout.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub idle_timeout: Duration = Duration::from_secs(4);
        /// Idle connections kept per instance and port.
        pub max_idle: usize = 256;
        /// Bytes of a response's head over HTTP/1.1.
        pub max_header_bytes: usize = 256 * 1024, by at_least(LEAST_HEADER_BYTES);
        /// Header fields of a response over HTTP/1.1.
        pub max_headers: usize = 256, by at_least(1);
    }
}

settings! {
    /// What the gateway adds to proxied responses.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct ResponseConfig {
        /// `Server-Timing: wake;dur=…`.
        pub server_timing: bool = true;
        /// `x-wakegate-wake: warm|cold|joined`.
        pub wake_header: bool = true;
    }
}

settings! {
    /// The operator's listener.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct AdminConfig {
        /// IP address and port; port 0 takes a free one.
        pub address: SocketAddr = loopback(9900);
        /// A file with the token that `/api` asks for. Needed where `address` is not this machine's
        /// own (loopback).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub token_file: Option<PathBuf> = None;
        /// The token itself; better give `token_file`.
        #[serde(skip_serializing)]
        #[cfg_attr(test, schemars(with = "Option<String>"))]
        pub token: Option<Secret> = None;
        /// Whether `/` is the dashboard.
        pub dashboard: bool = true;
        /// Whether the control planes are asked now and then which instances they have, for the
        /// dashboard and the metrics; requests never wait for it.
        pub observe: bool = true;
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// All its variants' keys beside each other; which go together, the reader says.
#[cfg(test)]
impl JsonSchema for ListenerMode {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ListenerMode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "properties": {
            "mode": {
                "enum": ["http", "wake", "tls-passthrough", "tcp"],
                "description": "What the listener's connections carry.",
            },
            "host": {
                "type": "string",
                "description": "With `mode = \"tcp\"`: whose route takes its connections.",
            },
        }})
    }
}

impl Config {
    /// Whether it is a member of a fleet with this role and no other.
    pub fn has_role(&self, role: FleetRole) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.role == role)
    }

    /// Whether a listener's certificates come by ACME.
    pub fn uses_acme(&self) -> bool {
        let of_listeners = self.listener.iter().filter_map(|one| one.tls.as_ref());
        let mut all = of_listeners.chain(&self.ingress.tls);
        all.any(|tls| matches!(tls.source, TlsSource::Acme { .. }))
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
            timeout: self.request_timeout,
            change_timeout: self.restore_timeout,
            user_agent: concat!("wakegate/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..hypeman::Config::default()
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
