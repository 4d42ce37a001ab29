//! What the gateway says about itself, typed.
//!
//! Guarantees: nothing here can make a request wait; a secret value is never printed.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::duration_text::go_text;
use super::settings::{elsewhere, list, optional_text, settings, share, text, word, word_settings};
#[cfg(test)]
use super::shape::GoText;
use super::texts::parse_url;

/// A part of `log.level` that says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a level (error, warn, info, debug, trace or off), nor a target and its level \
     such as `hyper=debug`"
)]
pub struct FilterError(String);

/// What `log.level` says: a level, or levels of targets, such as `info,hyper=debug`. Where there
/// are targets alone, everything else has the level `info`.
pub fn parse_filter(text: &str) -> Result<Targets, FilterError> {
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(FilterError(text.to_owned()));
    }
    let mut filter = Targets::new().with_default(LevelFilter::INFO);
    for part in parts {
        let wrong = || FilterError(part.to_owned());
        let level = |text: &str| {
            // The empty text and numbers would be levels.
            let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic());
            let level = Some(text).filter(|_| is_word);
            level.and_then(|level| level.parse::<LevelFilter>().ok())
        };
        let is_target = |text: &str| {
            let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
            !text.is_empty() && text.bytes().all(is_fine)
        };
        filter = match part.split_once('=') {
            None => filter.with_default(level(part).ok_or_else(wrong)?),
            Some((target, text)) if is_target(target) => {
                filter.with_target(target, level(text).ok_or_else(wrong)?)
            }
            Some(_) => return Err(wrong()),
        };
    }
    Ok(filter)
}

settings! {
    /// Logs: diagnostics on standard error, accesses on standard output.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct LogConfig {
        /// `error`, `warn`, `info`, `debug`, `trace`, or levels of targets such as
        /// `info,hyper=debug`.
        pub level: String = "info".to_owned(), by text(parse_level);
        /// How diagnostics look.
        pub format: LogFormat = LogFormat::Text;
        /// Where access lines go.
        pub access: AccessLog = AccessLog::Stdout;
        /// How access lines look.
        pub access_format: AccessFormat = AccessFormat::Json;
        /// How much of the usual traffic has access lines, from 0 to 1. Errors (400 and above),
        /// requests that met a wake, and those that broke off always have one.
        #[cfg_attr(test, schemars(range(min = 0.0, max = 1.0)))]
        pub access_sample: f64 = 1.0, by share;
        /// Which fields access lines have, in this order; all of them when the list is empty.
        pub access_fields: Vec<AccessField> = Vec::new(), by list(word::<AccessField>);
    }
}

fn parse_level(text: &str) -> Result<String, String> {
    let parsed = parse_filter(text).map(|_| text.to_owned());
    parsed.map_err(|error| error.to_string())
}

word_settings!(LogFormat, AccessLog, AccessFormat);

/// How diagnostics look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
    /// `key=value` pairs.
    Logfmt,
}

/// Where access lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
}

/// How access lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// One JSON object a request.
    Json,
    /// `key=value` pairs.
    Logfmt,
}

macro_rules! access_fields {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// A field of access lines.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
        #[cfg_attr(test, derive(JsonSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum AccessField {
            $($(#[$doc])* $field,)*
        }

        impl AccessField {
            /// Every field, in the order of a whole line.
            pub const ALL: &'static [Self] = &[$(Self::$field,)*];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$field => $name,)*
                }
            }
        }
    };
}

access_fields! {
    /// When the request's head was read, RFC 3339.
    Time = "time",
    /// As in the response's `x-request-id`.
    RequestId = "request_id",
    /// The W3C trace that the request belongs to.
    TraceId = "trace_id",
    /// The client's address, without its port: the one that a trusted proxy names, else the peer.
    Client = "client",
    /// The address that the connection came from, or that a trusted PROXY header names.
    Peer = "peer",
    /// The method, or the kind of a connection that is passed on as it is.
    Method = "method",
    /// The host that was asked for, if it was valid.
    Host = "host",
    /// The path without its query.
    Path = "path",
    /// The route, as configured.
    Route = "route",
    /// The status that was sent, 101 or 200 for a tunnel; 499 when the client left before one was.
    Status = "status",
    /// Body bytes from the client, or all bytes of a tunnel or raw connection.
    BytesIn = "bytes_in",
    /// Body bytes to the client, or all bytes of a tunnel or raw connection.
    BytesOut = "bytes_out",
    /// From the request's head to the response's last byte, or a tunnel's or connection's end.
    DurationMs = "duration_ms",
    /// The wake that the request met or waited for: `warm`, `cold`, `joined` or `none`.
    Wake = "wake",
    /// How long the request was held, however the wait ended.
    HeldMs = "held_ms",
    /// The instance's id, once known.
    Instance = "instance",
    /// The instance's name, once known.
    InstanceName = "instance_name",
    /// The error's stable code when the gateway answered by itself.
    Error = "error",
    /// Whether the response broke off before its end.
    Aborted = "aborted",
    /// Who ended a tunnel or raw connection: `client`, `instance`, `sleep` or `gateway`.
    EndedBy = "ended_by",
    /// The member of the fleet that the request was passed on to, or that has passed it on.
    FleetPeer = "fleet_peer",
    /// The client's user agent, at most 200 characters.
    UserAgent = "user_agent",
}

settings! {
    /// Metrics.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct MetricsConfig {
        /// How many routes have series of their own; the others share the route `other`.
        pub max_routes: usize = 100;
    }
}

settings! {
    /// Traces, in OpenTelemetry's form.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct TracingConfig {
        /// Where spans are sent with OTLP over HTTP, such as `http://127.0.0.1:4318`; without it
        /// there are none, and requests' own `traceparent` is passed on as it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub endpoint: Option<String> = None, by optional_text(parse_url);
        /// How many of the traces that begin here are recorded, from 0 to 1. A request that already
        /// belongs to a trace is recorded when its `traceparent` says so and comes from a trusted
        /// proxy; of other clients' so many are, and none that their `traceparent` leaves out.
        #[cfg_attr(test, schemars(range(min = 0.0, max = 1.0)))]
        pub sample: f64 = 0.01, by share;
        /// What the gateway is called in traces.
        pub service_name: String = "wakegate".to_owned();
        /// The longest that sending a batch of spans may take.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub timeout: Duration = Duration::from_secs(10);
        /// A file with header fields for the endpoint, one `name: value` a line; its values are
        /// secrets.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub headers_file: Option<PathBuf> = None;
        /// The same, as read.
        #[serde(skip)]
        pub headers: SecretHeaders = SecretHeaders::default(), by elsewhere;
    }
}

/// Header fields whose values are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretHeaders(pub Vec<(HeaderName, HeaderValue)>);

// === impl SecretHeaders ===

impl SecretHeaders {
    /// One `name: value` a line. A message names a line and never its text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut headers = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() {
                continue;
            }
            let wrong = || format!("line {number} is not a header field like \"name: value\"");
            let (name, value) = line.split_once(':').ok_or_else(wrong)?;
            let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
            let mut value: HeaderValue = value.trim().parse().map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        Ok(Self(headers))
    }
}

impl std::fmt::Debug for SecretHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secret header fields", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_of_secret_headers_is_named_and_not_shown() {
        let error = SecretHeaders::parse("a: b\n\nhunter2\n").unwrap_err();
        assert!(error.starts_with("line 3") && !error.contains("hunter2"));
        let read = SecretHeaders::parse("Authorization: Bearer hunter2\n").unwrap();
        assert_eq!(read.0[0].1, "Bearer hunter2");
        assert_eq!(format!("{read:?}"), "1 secret header fields");
    }

    #[test]
    fn an_access_fields_name_is_what_is_written() {
        for field in AccessField::ALL {
            let written = serde_json::to_value(field).unwrap();
            assert_eq!(written, field.as_str());
        }
    }

    #[test]
    fn a_filter_that_would_silence_what_nobody_meant_is_refused() {
        for text in [
            "",
            ",",
            "loud",
            "2",
            "INFOS",
            "tower",
            "info,verbose",
            "info,[request]=debug",
            "info,*=debug",
            "=debug",
            "hyper=",
            "hyper=loud",
            "a b",
            "a[b]=debug",
            "a=b=debug",
        ] {
            assert!(parse_filter(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_filter_is_a_level_and_levels_of_targets() {
        let filter = parse_filter("WARN, hyper=debug,h2=off").unwrap();
        for (target, level, expected) in [
            ("wakegate::app", tracing::Level::WARN, true),
            ("wakegate::app", tracing::Level::INFO, false),
            ("hyper::proto", tracing::Level::DEBUG, true),
            ("h2", tracing::Level::ERROR, false),
        ] {
            assert_eq!(filter.would_enable(target, &level), expected, "{target}");
        }
        let targets = parse_filter("hyper=debug").unwrap();
        assert!(targets.would_enable("wakegate::app", &tracing::Level::INFO));
        assert!(!targets.would_enable("wakegate::app", &tracing::Level::DEBUG));
        let off = parse_filter("off").unwrap();
        assert!(!off.would_enable("wakegate::app", &tracing::Level::ERROR));
    }
}
