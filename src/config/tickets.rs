//! The keys of session tickets, typed.
//!
//! Guarantees: they are rotated in any case.

use std::path::PathBuf;
use std::time::Duration;

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;

use super::duration_text::go_text;
use super::settings::{no_shorter, settings};
#[cfg(test)]
use super::shape::GoText;

settings! {
    /// The keys of TLS session tickets, by which a client resumes a session.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct TicketsConfig {
        /// Where the keys are kept, for a restart and for other gateways on the same directory.
        /// Without it they are in memory, and each listener has its own. Fronts of a fleet with
        /// `fleet.key_file` share them by its directory instead.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub dir: Option<PathBuf> = None;
        /// How often a new key takes the place of the current one, and how long the old one's
        /// tickets are still taken. For keys in `dir`.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub rotate: Duration = Duration::from_secs(12 * 3600), by no_shorter(SHORTEST, "1s");
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
