//! What a route may say about connections that leave HTTP, and about raw ones, typed.
//!
//! Guarantees: a time is never zero, so that a tunnel that begins also lives; a bound of 0 sheds
//! everything: it is never "unlimited".

use std::time::Duration;

#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration_text::{go_text, optional_go_text};
use super::jwt::parse_word;
use super::reader::Section;
use super::settings::{
    Setting as _, Settings as _, at_least, list, settings, size_within, word_settings,
};
#[cfg(test)]
use super::shape::GoText;
use super::values::ByteSize;

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
        /// Tunnels outlive their instance's sleep, if this is there.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub park: Option<ParkConfig> = None, by present;
    }
}

settings! {
    /// Tunnels that outlive their instance's sleep: the gateway puts the instance to sleep when all of its
    /// connections there have been without payload for long enough, keeps both sides of each tunnel, and
    /// wakes the instance for the next data frame, or byte, of a client.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct ParkConfig {
        /// A tunnel is parked after so long without payload. The instance is put to sleep then, or when
        /// its own idle timeout has passed since the last payload, whichever is later.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub after: Duration = Duration::from_secs(30), by nonzero;
        /// So many tunnels of the route are parked at most. One more stays as it is, and its instance
        /// awake; where its instance is put to sleep all the same, it is closed.
        pub max: usize = 10_000, by at_least(1);
        /// So much of what a client sends while its instance wakes is kept; more is not read until then.
        pub buffer: ByteSize = ByteSize(64 << 10), by size_within(LEAST_BUFFER..=LARGEST_BUFFER);
        /// A tunnel that has been parked for so long is closed: nothing is woken for that.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub max_time: Duration = Duration::from_secs(24 * 3600), by nonzero;
        /// An instance that has slept and of which nothing is heard on the tunnel for so long after its
        /// wake does not know it any more: it is closed, 1012.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub probe: Duration = Duration::from_secs(10), by nonzero;
        /// What becomes of a WebSocket that its instance does not know any more when it has slept.
        pub resume: ParkResume = ParkResume::Close;
        /// Event streams (`text/event-stream`) that an instance sends over HTTP/1.1 are parked as tunnels are,
        /// by the same numbers and times. Nothing of theirs wakes: they go on when the instance is
        /// awake for something else.
        pub event_streams: bool = false;
    }
}

/// What may be kept of a client's while its instance wakes.
const LEAST_BUFFER: ByteSize = ByteSize(1 << 10);
const LARGEST_BUFFER: ByteSize = ByteSize(16 << 20);

word_settings!(TunnelWake, ParkResume);

/// What becomes of a parked WebSocket that its instance has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ParkResume {
    /// It is closed: 1012.
    Close,
    /// The gateway shakes hands with the instance anew, with the client's request and
    /// `x-wakegate-parked`, where nothing can have been lost; else it is closed, too. Such a one
    /// has no extensions.
    Reconnect,
}

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

fn nonzero(s: &mut Section<'_, '_>, key: &'static str) -> Option<Duration> {
    let time = Duration::take(s, key)?;
    if time.is_zero() {
        s.problem(key, "must be more than 0");
    }
    Some(time)
}

/// A table that counts only where it is written, were it empty.
#[allow(clippy::unnecessary_wraps, reason = "rules may find nothing")]
#[allow(
    clippy::option_option,
    reason = "one for whether there is a value, the other of the key's own type"
)]
fn present(s: &mut Section<'_, '_>, key: &'static str) -> Option<Option<ParkConfig>> {
    let mut found = None;
    s.section(key, |s| {
        let mut park = ParkConfig::default();
        park.read(s);
        found = Some(park.clone()).filter(|_| s.is_in_file() || park != ParkConfig::default());
    });
    Some(found)
}
