//! The only reader of configuration files and of the environment.
//!
//! Guarantees: a [`Config`] is complete and consistent (no `Option` that means "default", every
//! cross-reference resolved), and when it cannot be, *all* problems come back together, each with
//! the place it was written, its key and what to do. Secrets are held in [`Secret`], which prints
//! nothing.
//!
//! The way: text or environment -> `reader` (which key, where, of what type) -> the sections, whose
//! keys are declared once (`settings!`) -> `load` (cross checks) -> [`Config`], beside which an [`Origin`] keeps the places of its keys
//! for whatever is found out later.

mod acme;
mod addresses;
mod advice;
mod at_node;
mod auth;
mod auth_advice;
mod capture_text;
mod client_share;
mod diagnostics;
mod duration_text;
mod effect_advice;
mod fleet;
mod forwarding;
mod front_advice;
mod jwt;
mod likeness;
mod load;
mod model;
mod origin;
mod other_ways;
mod parts;
mod pattern;
mod place;
mod ports;
mod problem;
mod reader;
mod redact;
mod route;
mod route_name;
mod say;
mod schema;
mod secret;
mod server;
mod service_link;
mod settings;
#[cfg(test)]
mod shape;
mod telemetry;
mod texts;
mod tickets;
mod tls;
mod tunnel;
mod upstream_tls;
mod values;
mod variables;
mod wake;
mod whole;
mod workload;
mod workload_advice;

pub use acme::{AcmeChallenge, AcmeConfig, EabConfig, can_be_certified};
pub use addresses::address_problems;
pub use advice::advice;
pub use auth::{AuthConfig, CertificateAuth, HeaderAuth, Proof, Way};
pub use capture_text::{CaptureText, INSTANCE};
pub use client_share::ClientShare;
pub use fleet::{FleetConfig, FleetEngine, FleetIdentity, FleetPublish, FleetRole, FleetTls};
pub use forwarding::{
    FieldNames, ForwardingConfig, HeaderEdits, Protocol, ProxyProtocol, RedirectConfig, Rename,
};
pub use jwt::{JwtAuth, TokenFrom};
pub use load::{Loaded, declared_policy, declared_route, load, load_admin, load_file};
pub use model::{
    AdminConfig, Config, HypemanConfig, IngressConfig, ListenerConfig, ListenerMode,
    ResponseConfig, UpstreamConfig,
};
pub use origin::Origin;
pub use other_ways::{ForwardAuth, KeyFile, SignedUrlAuth};
pub use pattern::{
    Captured, HostPattern, InstanceTemplate, PORT, PatternError, PatternLabel, split_port,
};
pub use place::Place;
pub use ports::{PortFrom, PortRanges, parse_port};
pub use problem::{ConfigError, Problem};
pub use redact::{masked, redacted};
pub use route::{
    AdmissionConfig, AsleepConfig, HooksConfig, LimitsConfig, Preset, PrewarmConfig, RetryConfig,
    RouteConfig, RoutePolicy, RouteWakeConfig, WaitingPageConfig,
};
pub use route_name::{HostKind, RouteKey, RouteName};
pub use schema::schema;
pub use secret::Secret;
pub use server::{HalfClose, Http2Config, ServerConfig, ViaConfig};
pub use telemetry::{
    AccessField, AccessFormat, AccessLog, FilterError, LogConfig, LogFormat, MetricsConfig,
    SecretHeaders, TracingConfig, parse_filter,
};
pub use tickets::TicketsConfig;
pub use tls::{ClientAuth, ClientCertificates, TlsConfig, TlsSource, TlsVersion};
pub use tunnel::{ParkConfig, ParkResume, TunnelConfig, TunnelWake};
pub use upstream_tls::{NameTemplate, UpstreamTlsConfig};
pub use values::{ByteSize, HeaderRule, KeepWarm, Rate, TextFile};
pub use variables::Variables;
pub use wake::{ReadyWhen, WakeConfig};
pub use workload::WorkloadConfig;
