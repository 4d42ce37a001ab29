//! Ports that requests may choose, typed.
//!
//! Guarantees: a range has a first port that is not behind its last, and no port is 0.

use std::fmt;

use http::HeaderName;
#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::jwt::parse_word;
use super::reader::Section;
use super::settings::{Setting, optional_text, settings};
#[cfg(test)]
use super::shape::text_schema;
use super::texts::parse_auth_name;

/// Ports and ranges of them: `"3000-9000, 22"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRanges(Vec<(u16, u16)>);

#[cfg(test)]
text_schema!(PortRanges, "PortRanges", "3000-9000, 22");

settings! {
    /// Where a request says which port it is for, besides its host.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct PortFrom {
        /// A field.
        #[serde(serialize_with = "optional_name", skip_serializing_if = "Option::is_none")]
        #[cfg_attr(test, schemars(with = "Option<String>"))]
        pub header: Option<HeaderName> = None, by optional_text(parse_auth_name);
        /// The beginning of a WebSocket subprotocol, which the port follows.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub subprotocol: Option<String> = None, by optional_text(parse_word);
    }
}

#[allow(clippy::ref_option, reason = "serde hands it over so")]
fn optional_name<S: Serializer>(name: &Option<HeaderName>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(name.as_ref().map_or("", HeaderName::as_str))
}

/// Writes a route's port: a number, or `{port}` where each request says which.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
pub(super) fn port_or_capture<S: Serializer>(port: &u16, to: S) -> Result<S::Ok, S::Error> {
    match port {
        0 => to.serialize_str("{port}"),
        port => to.serialize_u16(*port),
    }
}

/// A route's port, for schemas.
#[cfg(test)]
pub(super) struct PortShape;

#[cfg(test)]
impl JsonSchema for PortShape {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RoutePort".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": 65535 },
            { "const": "{port}", "description": "what the capture of this name has matched in the host" },
        ]})
    }
}

/// A port as requests write it: one way only.
pub fn parse_port(text: &str) -> Option<u16> {
    let is_plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

// === impl PortRanges ===

impl PortRanges {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let range = parse_port(first.trim()).zip(parse_port(last.trim()));
            range.filter(|(first, last)| first <= last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(|part| range(part.trim())).collect();
        ranges.map(Self).ok_or_else(|| {
            format!("`{text}` is not a list of ports and ranges like \"3000-9000, 22\"")
        })
    }

    /// Whether a port is in one of them.
    pub fn contain(&self, port: u16) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&port))
    }
}

impl Setting for PortRanges {
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
        s.word_or_number(key, Self::parse)
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for PortRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl PortFrom ===

impl PortFrom {
    /// Whether nothing chooses a port.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_print_as_they_are_read_and_what_is_none_is_refused() {
        let ranges = PortRanges::parse("3000-9000,22 , 80").unwrap();
        assert_eq!(ranges.to_string(), "3000-9000, 22, 80");
        for (port, is_in) in [
            (22, true),
            (2999, false),
            (3000, true),
            (9000, true),
            (9001, false),
        ] {
            assert_eq!(ranges.contain(port), is_in, "{port}");
        }
        for text in [
            "", "0", "80-22", "70000", "a", "1-2-3", "22,", "-", "022", "+22",
        ] {
            assert!(PortRanges::parse(text).is_err(), "{text}");
        }
    }
}
