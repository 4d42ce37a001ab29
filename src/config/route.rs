//! What a route may say, typed.
//!
//! Guarantees: every list that is empty means "no restriction", every rate that is `None` means "no
//! rate", and a limit of 0 sheds everything: it is never "unlimited". Routes that say the same share
//! it, since there may be a million of them.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::acme::can_be_certified;
use super::client_share::ClientShare;
use super::duration_text::go_text;
use super::forwarding::{ForwardingConfig, parse_field};
use super::pattern::{HostPattern, InstanceTemplate};
#[cfg(test)]
use super::ports::PortShape;
use super::ports::{PortFrom, PortRanges, port_or_capture};
use super::route_name::{HostKind, RouteKey, RouteName};
use super::settings::{
    list, optional_text, section, settings, size_within, text, within, word_settings,
};
#[cfg(test)]
use super::shape::{GoText, or_flag};
use super::texts::{
    parse_agent, parse_error_status, parse_instance, parse_method, parse_network, parse_path,
    parse_target,
};
use super::tunnel::TunnelConfig;
use super::values::{ByteSize, HeaderRule, KeepWarm, Rate, TextFile};
use super::wake::{ReadyWhen, WakeConfig};
use crate::names::PlaneIndex;
use hypeman::InstanceRef;

/// One route.
// Small, since there may be a million: what many of them say alike they share.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct RouteConfig {
    /// Its hosts and its path.
    #[serde(flatten)]
    pub name: RouteName,
    /// Only for requests that came to this port of ours, or, if it is 0, to one that no other route of its host
    /// is for; a file's routes are for every listener.
    #[serde(skip)]
    pub listen_port: Option<u16>,
    /// The instance that they go to.
    pub instance: InstanceTemplate,
    /// The instance's port.
    #[serde(serialize_with = "port_or_capture")]
    #[cfg_attr(test, schemars(with = "PortShape"))]
    pub port: u16,
    /// Everything else, which routes that say the same have only one of.
    #[serde(flatten)]
    pub policy: Arc<RoutePolicy>,
}

/// What a route says besides its name and its instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct RoutePolicy {
    /// The ports that requests may choose; others are answered 404, without a wake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRanges>,
    /// Where requests choose a port besides the host; without a choice it is `port`.
    #[serde(skip_serializing_if = "PortFrom::is_empty")]
    pub port_from: PortFrom,
    /// How its requests are passed on.
    #[serde(flatten)]
    pub forwarding: ForwardingConfig,
    /// The name of its control plane; none at a front, which has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hypeman: String,
    /// The same, as a position.
    #[serde(skip)]
    pub plane: PlaneIndex,
    /// Whether it is not the route's to say: whichever has the instance. So it is with a directory's routes.
    #[serde(skip)]
    pub plane_is_open: bool,
    /// Whether it says more for the gateway beside the instance than a request can take along.
    #[serde(skip)]
    pub has_more_at_node: bool,
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
    /// Rules for upgraded and raw connections.
    pub tunnel: TunnelConfig,
    /// When it is kept awake.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_warm: Vec<KeepWarm>,
    /// Requests that wake other instances beforehand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prewarm: Vec<PrewarmConfig>,
}

settings! {
    /// Requests at an instance at once, counted until their responses end.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct LimitsConfig {
        /// Never more than so many; the next waits its turn within its deadline. 0 sheds all.
        pub max_inflight: usize = 1000;
        /// Beyond so many a request waits `soft_wait` for its turn first.
        pub soft_inflight: usize = 1000;
        /// How long it then waits at most.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub soft_wait: Duration = Duration::from_millis(100);
        /// One client's share of the instance's places; a client is an IPv4 /24 or IPv6 /56. A
        /// request beyond it waits its turn.
        pub max_inflight_per_client: ClientShare = ClientShare::Half;
        /// One client's share of those who wait: of the instance's and of the route's places in the
        /// hold queue. Of the gateway's it is half in any case.
        pub max_held_per_client: ClientShare = ClientShare::Half;
        /// Bytes a second that a request's body must come with, instead of `server.min_body_rate`;
        /// 0 asks nothing.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub min_body_rate: Option<ByteSize> = None;
    }
}

settings! {
    /// Wake rules that a route may set for itself; most defaults come from `[wake]`.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct RouteWakeConfig {
        /// How long a request is held at most.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub timeout: Duration = Duration::from_secs(30);
        /// Whether a Stopped instance is started (a cold boot) instead of refused.
        pub start_stopped: bool = false;
        /// Whether an instance that would have to be booted, since it has no memory to be restored, is refused
        /// instead: 503 `cold_boot_refused`.
        pub require_memory: bool = false;
        /// What a held request waits for.
        pub ready: ReadyWhen = ReadyWhen::Port;
        /// What `ready = "health"` asks the application.
        pub health_path: Arc<str> = "/".into(), by text(parse_target);
        /// Whether a TLS `ClientHello` for the route's host wakes it already, so that the restore
        /// overlaps the handshake. Whoever can connect can then wake.
        pub on_tls_hello: bool = false;
        /// A GET of this path, whose answer does not matter, goes first after a wake.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub warmup: Option<Arc<str>> = None, by optional_text(parse_target);
        /// Requests that the gateway makes to the workload itself.
        #[serde(skip_serializing_if = "HooksConfig::is_empty")]
        pub hooks: HooksConfig = HooksConfig::default(), by section;
        /// Requests of this route held at once; 0 sheds all.
        pub max_held: usize = 50_000;
        /// Instances that are restored with this one.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        #[cfg_attr(test, schemars(with = "Vec<String>"))]
        pub also: Arc<[InstanceRef]> = [].into(), by list(parse_instance);
    }
}

settings! {
    /// Requests that the gateway makes to the workload itself, at the route's port. What clients ask of
    /// these paths is a 404.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct HooksConfig {
        /// A POST to this path goes once after a wake, before the first request.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub resumed: Option<Arc<str>> = None, by optional_text(parse_hook);
        /// A POST to this path goes before the gateway puts the instance to sleep; an answer 409 keeps it
        /// awake.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub before_standby: Option<Arc<str>> = None, by optional_text(parse_hook);
        /// How long an answer is waited for.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub timeout: Duration = Duration::from_secs(2);
    }
}

settings! {
    /// Which requests may wake the instance. All conditions must hold.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct AdmissionConfig {
        /// Only these methods.
        pub methods: Vec<String> = Vec::new(), by list(parse_method);
        /// Only below these path prefixes.
        pub paths: Vec<String> = Vec::new(), by list(parse_path);
        /// And never below these.
        pub deny_paths: Vec<String> = Vec::new(), by list(parse_path);
        /// Only with this header field.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub header: Option<HeaderRule> = None;
        /// Only from these networks.
        #[cfg_attr(test, schemars(with = "Vec<String>"))]
        pub clients: Vec<IpNet> = Vec::new(), by list(parse_network);
        /// Not with a user agent that contains one of these, in lower case.
        pub deny_user_agents: Vec<String> = Vec::new(), by list(parse_agent);
        /// Wakes that one client (an IPv4 /24 or IPv6 /56) may cause.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rate_per_client: Option<Rate> = None;
        /// Wakes that the route may cause in all.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rate: Option<Rate> = None;
        /// Rules for the usual abusers.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub preset: Option<Preset> = None;
    }
}

/// A route's requests are read into memory at once up to this size at most.
const LARGEST_BUFFER: ByteSize = ByteSize(16 << 20);

word_settings!(Preset);

/// A named set of admission rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Bots, scanners, prefetches, preflights and favicons do not wake.
    BrowserAbuse,
}

settings! {
    /// What is answered instead of waking.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct AsleepConfig {
        /// Its status; 503 has a Retry-After.
        pub status: u16 = 503, by within(200..=599);
        /// Its further header fields.
        pub headers: Vec<HeaderRule> = Vec::new(), by list(parse_field);
        /// Its body instead of problem JSON.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub body_file: Option<TextFile> = None;
        /// What `/robots.txt` says while the instance sleeps.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub robots: Option<TextFile> = None;
        /// Paths that the gateway answers itself, 200 with the instance's state, asleep or awake: a
        /// health check never keeps an instance awake.
        pub health_paths: Vec<String> = Vec::new(), by list(parse_path);
        /// Whether requests for `health_paths` are passed on while the instance is awake. They
        /// count as its traffic then, and can keep it awake.
        pub health_forward: bool = false;
    }
}

settings! {
    /// When a request is sent again although a response began to come, or its body had been read.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct RetryConfig {
        /// Bodies of idempotent requests up to this size are read before they are sent, so that
        /// they can be sent again. 0 reads none.
        pub buffer: ByteSize = ByteSize(0), by size_within(ByteSize(0)..=LARGEST_BUFFER);
        /// Responses right after a wake that count as "not ready yet", for repeatable requests.
        pub on_wake: Vec<u16> = Vec::new(), by list(parse_error_status);
        /// How long after a wake.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub on_wake_for: Duration = Duration::from_secs(10);
    }
}

settings! {
    /// The page that a browser sees while an instance wakes.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    #[cfg_attr(test, schemars(transform = or_flag))]
    pub struct WaitingPageConfig {
        /// Whether there is one.
        pub enabled: bool = false;
        /// How long a browser is held before it sees the page.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub after: Duration = Duration::from_millis(400);
        /// HTML instead of the built-in page's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub template: Option<TextFile> = None;
    }
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

// === impl RouteConfig ===

impl RouteConfig {
    /// A route for every path and every listener.
    pub fn new(
        host: &HostPattern,
        instance: InstanceTemplate,
        port: u16,
        policy: Arc<RoutePolicy>,
    ) -> Self {
        Self {
            name: RouteName::new(host, "/"),
            listen_port: None,
            instance,
            port,
            policy,
        }
    }

    /// Whether each request says which port it is for, and there is none otherwise.
    pub fn has_port_of_host(&self) -> bool {
        self.port == 0
    }

    /// Its hosts and its path: a name with few values, for logs and metrics. Another route, for another port,
    /// may have the same.
    pub fn label(&self) -> &Arc<str> {
        self.name.label()
    }

    /// What is counted for it is counted by this.
    pub fn key(&self) -> RouteKey {
        self.name.key(self.listen_port)
    }

    /// Its hosts, as they are written.
    pub fn host(&self) -> &str {
        self.name.host()
    }

    /// Its path: a prefix on segment borders; `/` is all.
    pub fn path(&self) -> &str {
        self.name.path()
    }

    /// The name for which a certificate can be ordered: the route's host, if that is one public
    /// name.
    pub fn acme_name(&self) -> Option<&str> {
        let HostKind::Exact(host) = self.name.kind() else {
            return None;
        };
        can_be_certified(host).then_some(host)
    }
}

/// Whoever has a route reads its settings as if they were its own.
impl Deref for RouteConfig {
    type Target = RoutePolicy;

    fn deref(&self) -> &RoutePolicy {
        &self.policy
    }
}

// === impl RoutePolicy ===

impl RoutePolicy {
    /// Everything by default, and for instances of this control plane.
    pub fn new(plane: PlaneIndex, wake: &WakeConfig) -> Self {
        Self {
            ports: None,
            port_from: PortFrom::default(),
            forwarding: ForwardingConfig::default(),
            hypeman: String::new(),
            plane,
            plane_is_open: false,
            has_more_at_node: false,
            limits: LimitsConfig::default(),
            wake: RouteWakeConfig::of(wake),
            admission: AdmissionConfig::default(),
            asleep: AsleepConfig::default(),
            retry: RetryConfig::default(),
            waiting_page: WaitingPageConfig::default(),
            tunnel: TunnelConfig::default(),
            keep_warm: Vec::new(),
            prewarm: Vec::new(),
        }
    }
}

fn parse_hook(text: &str) -> Result<Arc<str>, String> {
    parse_path(text).map(Arc::from)
}

// === impl HooksConfig ===

impl HooksConfig {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// === impl RouteWakeConfig ===

impl RouteWakeConfig {
    /// As `[wake]` has it.
    pub fn of(wake: &WakeConfig) -> Self {
        Self {
            timeout: wake.timeout,
            start_stopped: wake.start_stopped,
            require_memory: wake.require_memory,
            ready: wake.ready,
            max_held: wake.max_held_per_route,
            ..Self::default()
        }
    }
}
