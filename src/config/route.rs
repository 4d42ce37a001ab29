//! What a route may say, typed.
//!
//! Guarantees: every list that is empty means "no restriction", every rate that is `None` means "no
//! rate", and a limit of 0 sheds everything: it is never "unlimited".

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use super::client_share::ClientShare;
use super::duration_text::go_text;
use super::forwarding::ForwardingConfig;
use super::pattern::{HostPattern, InstanceTemplate};
#[cfg(test)]
use super::shape::{GoText, or_flag};
use super::values::{ByteSize, HeaderRule, KeepWarm, Rate, TextFile};
use super::wake::{ReadyWhen, WakeConfig};
use crate::names::PlaneIndex;
use hypeman::InstanceRef;

/// One route.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct RouteConfig {
    /// The hosts of its requests.
    pub host: HostPattern,
    /// Path prefix on segment borders; `/` is all.
    pub path: String,
    /// Only for requests that came to this port of ours; a file's routes are for every listener.
    #[serde(skip)]
    pub listen_port: Option<u16>,
    /// The instance that they go to.
    pub instance: InstanceTemplate,
    /// The instance's port.
    pub port: u16,
    /// How its requests are passed on.
    #[serde(flatten)]
    pub forwarding: ForwardingConfig,
    /// The name of its control plane.
    pub hypeman: String,
    /// The same, as a position.
    #[serde(skip)]
    pub plane: PlaneIndex,
    /// Requests at the instance at once.
    pub limits: LimitsConfig,
    /// How long and for what a wake is waited for.
    pub wake: RouteWakeConfig,
    /// Which requests may wake it.
    pub admission: AdmissionConfig,
    /// What is answered instead of waking it.
    pub asleep: AsleepConfig,
    /// When a request is sent again.
    pub retry: RetryConfig,
    /// The page for browsers.
    pub waiting_page: WaitingPageConfig,
    /// When it is kept awake.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_warm: Vec<KeepWarm>,
    /// Requests that wake other instances beforehand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prewarm: Vec<PrewarmConfig>,
}

/// Requests at an instance at once, counted until their responses end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct LimitsConfig {
    /// Never more than so many; the next waits its turn within its deadline. 0 sheds all.
    pub max_inflight: usize,
    /// Beyond so many a request waits `soft_wait` for its turn first.
    pub soft_inflight: usize,
    /// How long it then waits at most.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub soft_wait: Duration,
    /// One client's share of the instance's places; a client is an IPv4 /24 or IPv6 /56. A request
    /// beyond it waits its turn.
    pub max_inflight_per_client: ClientShare,
    /// One client's share of those who wait: of the instance's and of the route's places in the
    /// hold queue. Of the gateway's it is half in any case.
    pub max_held_per_client: ClientShare,
    /// Bytes a second that a request's body must come with, instead of `server.min_body_rate`; 0
    /// asks nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_body_rate: Option<ByteSize>,
}

/// Wake rules that a route may set for itself; most defaults come from `[wake]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct RouteWakeConfig {
    /// How long a request is held at most.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub timeout: Duration,
    /// Whether a Stopped instance is started (a cold boot) instead of refused.
    pub start_stopped: bool,
    /// What a held request waits for.
    pub ready: ReadyWhen,
    /// What `ready = "health"` asks the application.
    pub health_path: Arc<str>,
    /// Whether a TLS `ClientHello` for the route's host wakes it already, so that the restore
    /// overlaps the handshake. Whoever can connect can then wake.
    pub on_tls_hello: bool,
    /// A GET of this path, whose answer does not matter, goes first after a wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Arc<str>>,
    /// Requests of this route held at once; 0 sheds all.
    pub max_held: usize,
    /// Instances that are restored with this one.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub also: Arc<[InstanceRef]>,
}

/// Which requests may wake the instance. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct AdmissionConfig {
    /// Only these methods.
    pub methods: Vec<String>,
    /// Only below these path prefixes.
    pub paths: Vec<String>,
    /// And never below these.
    pub deny_paths: Vec<String>,
    /// Only with this header field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderRule>,
    /// Only from these networks.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub clients: Vec<IpNet>,
    /// Not with a user agent that contains one of these, in lower case.
    pub deny_user_agents: Vec<String>,
    /// Wakes that one client (an IPv4 /24 or IPv6 /56) may cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_client: Option<Rate>,
    /// Wakes that the route may cause in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Rules for the usual abusers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
}

/// A named set of admission rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Bots, scanners, prefetches, preflights and favicons do not wake.
    BrowserAbuse,
}

/// What is answered instead of waking.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct AsleepConfig {
    /// Its status; 503 has a Retry-After.
    pub status: u16,
    /// Its further header fields.
    pub headers: Vec<HeaderRule>,
    /// Its body instead of problem JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_file: Option<TextFile>,
    /// What `/robots.txt` says while the instance sleeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub robots: Option<TextFile>,
    /// Paths that the gateway answers itself, 200 with the instance's state, asleep or awake: a
    /// health check never keeps an instance awake.
    pub health_paths: Vec<String>,
}

/// When a request is sent again although a response began to come, or its body had been read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct RetryConfig {
    /// Bodies of idempotent requests up to this size are read before they are sent, so that they
    /// can be sent again. 0 reads none.
    pub buffer: ByteSize,
    /// Responses right after a wake that count as "not ready yet", for repeatable requests.
    pub on_wake: Vec<u16>,
    /// How long after a wake.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub on_wake_for: Duration,
}

/// The page that a browser sees while an instance wakes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(transform = or_flag))]
pub struct WaitingPageConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// How long a browser is held before it sees the page.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub after: Duration,
    /// HTML instead of the built-in page's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TextFile>,
}

/// Requests that wake other instances beforehand.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct PrewarmConfig {
    /// Below these path prefixes of the route.
    pub paths: Vec<String>,
    /// Instances on the route's control plane.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub instances: Vec<InstanceRef>,
}

impl RouteConfig {
    /// A route for every path, with everything else by default.
    pub fn new(
        host: HostPattern,
        instance: InstanceTemplate,
        port: u16,
        plane: PlaneIndex,
        wake: &WakeConfig,
    ) -> Self {
        Self {
            host,
            path: "/".to_owned(),
            listen_port: None,
            instance,
            port,
            forwarding: ForwardingConfig::default(),
            hypeman: String::new(),
            plane,
            limits: LimitsConfig::default(),
            wake: RouteWakeConfig::of(wake),
            admission: AdmissionConfig::default(),
            asleep: AsleepConfig::default(),
            retry: RetryConfig::default(),
            waiting_page: WaitingPageConfig::default(),
            keep_warm: Vec::new(),
            prewarm: Vec::new(),
        }
    }
}

impl RouteWakeConfig {
    /// As `[wake]` has it.
    pub fn of(wake: &WakeConfig) -> Self {
        Self {
            timeout: wake.timeout,
            start_stopped: wake.start_stopped,
            ready: wake.ready,
            max_held: wake.max_held_per_route,
            ..Self::default()
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_inflight: 1000,
            soft_inflight: 1000,
            soft_wait: Duration::from_millis(100),
            max_inflight_per_client: ClientShare::Half,
            max_held_per_client: ClientShare::Half,
            min_body_rate: None,
        }
    }
}

impl Default for RouteWakeConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            start_stopped: false,
            ready: ReadyWhen::Port,
            health_path: "/".into(),
            on_tls_hello: false,
            warmup: None,
            max_held: 50_000,
            also: [].into(),
        }
    }
}

impl Default for AsleepConfig {
    fn default() -> Self {
        Self {
            status: 503,
            headers: Vec::new(),
            body_file: None,
            robots: None,
            health_paths: Vec::new(),
        }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            buffer: ByteSize(0),
            on_wake: Vec::new(),
            on_wake_for: Duration::from_secs(10),
        }
    }
}

impl Default for WaitingPageConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            after: Duration::from_millis(400),
            template: None,
        }
    }
}
