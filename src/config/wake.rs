//! The settings of the wake engine and its hold queue, typed.
//!
//! Guarantees: a limit of 0 sheds everything: it is never "unlimited".

use std::num::NonZeroU32;
use std::time::Duration;

#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration_text::go_text;
use super::settings::{at_least, no_shorter, settings, word_settings};
#[cfg(test)]
use super::shape::GoText;
use super::values::Rate;

settings! {
    /// The wake engine and its hold queue.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct WakeConfig {
        /// How long a request is held at most, unless its route says otherwise.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub timeout: Duration = Duration::from_secs(30);
        /// Held requests per instance; 0 sheds all.
        pub max_held_per_instance: usize = 10_000;
        /// Held requests per route, unless the route says otherwise; 0 sheds all.
        pub max_held_per_route: usize = 50_000;
        /// Held requests in all; 0 sheds all.
        pub max_held: usize = 100_000;
        /// Bytes of held request heads in all; 0 sheds all.
        pub max_held_bytes: usize = 64 * 1024 * 1024;
        /// Whether a Stopped instance is started, unless its route says otherwise.
        pub start_stopped: bool = false;
        /// Whether an instance that would have to be booted, since it has no memory to be restored, is refused
        /// instead, unless its route says otherwise.
        pub require_memory: bool = false;
        /// A lease not confirmed for this long is read again while in use, and is void while not.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub verify_interval: Duration = Duration::from_secs(30),
            by no_shorter(SHORTEST_VERIFY, "50ms");
        /// Failed wakes in a row before the breaker opens.
        pub breaker_failures: u32 = 3, by at_least(1);
        /// The breaker's longest pause; it starts at a second and doubles.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub breaker_max_delay: Duration = Duration::from_secs(30);
        /// How long an unknown instance name is remembered as unknown.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub unknown_ttl: Duration = Duration::from_secs(2);
        /// How long an instance is remembered that nobody asks for and to which nothing is open.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub forget_after: Duration = Duration::from_secs(600);
        /// Unknown names remembered at most.
        pub max_unknown: usize = 10_000;
        /// Unknown names that one client (an IPv4 /24 or IPv6 /56) may ask for.
        pub unknown_per_client: Rate = Rate {
                    count: NonZeroU32::MIN.saturating_add(59),
                    per: Duration::from_secs(60),
                };
        /// What a held request waits for, unless its route says otherwise.
        pub ready: ReadyWhen = ReadyWhen::Port;
        /// Restores and starts at once per control plane; the rest wait their turn.
        pub max_concurrent: usize = 16, by at_least(1);
        /// Other calls at once per control plane.
        pub max_questions: usize = 64, by at_least(1);
        /// An open connection without a byte either way for this long makes the gateway ask whether
        /// its instance is still awake.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub stall_timeout: Duration = Duration::from_secs(10);
        /// The longest that an application may ask to stay awake for with `x-wakegate-hold`.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub max_hold: Duration = Duration::from_secs(3600);
        /// Wakes of one instance in a minute that count as thrash.
        pub thrash_per_minute: u32 = 6;
        /// Wakes that the ledger remembers.
        pub ledger: usize = 1000;
        /// While released requests' first responses are outstanding, the next are released after
        /// this long in any case.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub ramp_step: Duration = Duration::from_millis(500);
    }
}

/// The shortest `wake.verify_interval`: the control plane is asked that often about each instance in
/// use, and has to have answered by then.
const SHORTEST_VERIFY: Duration = Duration::from_millis(50);

word_settings!(ReadyWhen);

/// When an instance counts as ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
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
