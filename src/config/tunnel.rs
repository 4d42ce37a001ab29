//! What a route may say about connections that leave HTTP, and about raw ones, typed.
//!
//! Guarantees: a time is never zero, so that a tunnel that begins also lives; a bound of 0 sheds
//! everything: it is never "unlimited".

use std::time::Duration;

#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration_text::optional_go_text;
use super::jwt::parse_word;
use super::reader::Section;
use super::settings::{Setting as _, list, settings, word_settings};
#[cfg(test)]
use super::shape::GoText;

settings! {
    /// Rules for tunnels: upgraded connections, such as those of WebSocket, and raw ones.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct TunnelConfig {
        /// A tunnel is closed after so long without payload in either direction: the data frames of a
        /// WebSocket (pings, pongs and closes are none), the bytes of anything else.
        #[serde(
            serialize_with = "optional_go_text",
            skip_serializing_if = "Option::is_none"
        )]
        #[cfg_attr(test, schemars(with = "Option<GoText>"))]
        pub idle: Option<Duration> = None, by positive;
        /// A tunnel is closed when it has lived for so long.
        #[serde(
            serialize_with = "optional_go_text",
            skip_serializing_if = "Option::is_none"
        )]
        #[cfg_attr(test, schemars(with = "Option<GoText>"))]
        pub max_life: Option<Duration> = None, by positive;
        /// So many tunnels of the route may one client have (an IPv4 address or an IPv6 /64); the next is
        /// refused: 429 `tunnel_limit`. 0 sheds all.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub max_per_client: Option<usize> = None;
        /// What of a WebSocket wakes a sleeping instance.
        pub wake: TunnelWake = TunnelWake::Handshake;
        /// Subprotocols that the gateway may pick where it shakes hands itself: the first that a client
        /// offers and that is listed here.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub subprotocols: Vec<String> = Vec::new(), by list(parse_word);
    }
}

word_settings!(TunnelWake);

/// What of a WebSocket wakes a sleeping instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TunnelWake {
    /// Its handshake, as any request.
    Handshake,
    /// Its first data frame: until then the gateway shakes hands, and answers pings, itself.
    FirstFrame,
}

#[allow(
    clippy::option_option,
    reason = "one for whether there is a value, the other of the key's own type"
)]
fn positive(s: &mut Section<'_, '_>, key: &'static str) -> Option<Option<Duration>> {
    let time = Duration::take(s, key)?;
    if time.is_zero() {
        s.problem(
            key,
            "must be more than 0: leave it out where there is to be no limit",
        );
    }
    Some(Some(time))
}
