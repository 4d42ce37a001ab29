//! The settings of the wake engine and its hold queue, typed.
//!
//! Guarantees: a limit of 0 sheds everything: it is never "unlimited".

use std::num::NonZeroU32;
use std::time::Duration;

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use super::duration_text::go_text;
#[cfg(test)]
use super::shape::GoText;
use super::values::Rate;

/// The wake engine and its hold queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct WakeConfig {
    /// How long a request is held at most, unless its route says otherwise.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
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
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub verify_interval: Duration,
    /// Failed wakes in a row before the breaker opens.
    pub breaker_failures: u32,
    /// The breaker's longest pause; it starts at a second and doubles.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub breaker_max_delay: Duration,
    /// How long an unknown instance name is remembered as unknown.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub unknown_ttl: Duration,
    /// How long an instance is remembered that nobody asks for and to which nothing is open.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub forget_after: Duration,
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
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub stall_timeout: Duration,
    /// The longest that an application may ask to stay awake for with `x-wakegate-hold`.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub max_hold: Duration,
    /// Wakes of one instance in a minute that count as thrash.
    pub thrash_per_minute: u32,
    /// Wakes that the ledger remembers.
    pub ledger: usize,
    /// While released requests' first responses are outstanding, the next are released after this
    /// long in any case.
    #[serde(serialize_with = "go_text")]
    #[cfg_attr(test, schemars(with = "GoText"))]
    pub ramp_step: Duration,
}

/// When an instance counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ReadyWhen {
    /// It is Running and its port accepts connections.
    Running,
    /// Its port accepts connections, even while it is Initializing.
    Port,
    /// It is Running, its port accepts connections, and it is healthy: by the control plane's word,
    /// or else by an HTTP request of the gateway's.
    Health,
}

// === impl WakeConfig ===

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

impl Default for WakeConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            max_held_per_instance: 10_000,
            max_held_per_route: 50_000,
            max_held: 100_000,
            max_held_bytes: 64 * 1024 * 1024,
            start_stopped: false,
            verify_interval: Duration::from_secs(30),
            breaker_failures: 3,
            breaker_max_delay: Duration::from_secs(30),
            unknown_ttl: Duration::from_secs(2),
            forget_after: Duration::from_secs(600),
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
