//! The door for instances themselves, typed.
//!
//! Guarantees: without an address there is none.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use super::duration_text::go_text;
use super::settings::{no_shorter, settings, within};
#[cfg(test)]
use super::shape::GoText;

settings! {
    /// The door at which instances say that they are busy, or done.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct WorkloadConfig {
        /// IP address and port, which instances reach and nobody else should; port 0 takes a free one. An instance
        /// is known by the address that it comes from. Without it there is no door.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub address: Option<SocketAddr> = None;
        /// Where holds are kept, for a restart and for other gateways on the same directory. Without it
        /// they are in memory, and end with the gateway.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub state_dir: Option<PathBuf> = None;
        /// The longest that an instance may hold itself awake by one request.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub max_hold: Duration = Duration::from_secs(24 * 3600), by no_shorter(SHORTEST, "1s");
        /// Holds that one instance may have at once.
        pub max_holds: usize = 100, by within(1..=MOST_HOLDS);
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
/// More tasks than anything has; each of them is in memory and in a file.
const MOST_HOLDS: usize = 10_000;
