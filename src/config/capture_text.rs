//! Texts with captures in them, such as `{instance}.clients.example.com`.
//!
//! Guarantees: what is between braces is a capture's name; whether there is such a capture is for
//! whoever knows the host to say.

use std::fmt;

use serde::{Serialize, Serializer};

use super::pattern::HostPattern;
#[cfg(test)]
use super::shape::text_schema;

/// The capture that every route has: the name of the instance that a request is for.
pub const INSTANCE: &str = "instance";

/// A text in which the names of captures stand for what they have matched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CaptureText(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Literal(String),
    Capture(String),
}

#[cfg(test)]
text_schema!(CaptureText, "CaptureText", "user-{instance}");

// === impl CaptureText ===

impl CaptureText {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| format!("`{text}` has a `{{` without its `}}`"))?;
            let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err(format!("`{name}` is not a capture name"));
            }
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_owned()));
            }
            parts.push(Part::Capture(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        match parts.is_empty() || text.matches('}').count() != text.matches('{').count() {
            true => Err(format!("`{text}` is not a text like \"user-{{instance}}\"")),
            false => Ok(Self(parts)),
        }
    }

    /// A capture in it that a route of this host does not have.
    pub(super) fn unknown(&self, host: &HostPattern) -> Option<&str> {
        let mut captures = self.captures();
        captures.find(|name| *name != INSTANCE && !host.captures(name))
    }

    /// The names of its captures.
    pub(super) fn captures(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Capture(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The text with what the captures have matched; `None` where one has matched nothing.
    pub fn filled<'c>(&self, capture: impl Fn(&str) -> Option<&'c str>) -> Option<String> {
        let parts = self.0.iter().map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Capture(name) => capture(name).filter(|text| !text.is_empty()),
        });
        parts.collect()
    }
}

impl fmt::Display for CaptureText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Literal(text) => f.write_str(text),
            Part::Capture(name) => write!(f, "{{{name}}}"),
        })
    }
}

impl Serialize for CaptureText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_filled_with_what_its_captures_have_matched() {
        let text = CaptureText::parse("{tenant}/{instance}!").unwrap();
        assert_eq!(text.to_string(), "{tenant}/{instance}!");
        let filled = text.filled(|name| (name == "tenant").then_some("blue"));
        assert_eq!(filled, None);
        let filled = text.filled(|name| Some(if name == "tenant" { "blue" } else { "app" }));
        assert_eq!(filled.as_deref(), Some("blue/app!"));
        let host = HostPattern::parse("{tenant}.example.com").unwrap();
        assert_eq!(text.unknown(&host), None);
        let host = HostPattern::parse("{app}.example.com").unwrap();
        assert_eq!(text.unknown(&host), Some("tenant"));
    }

    #[test]
    fn what_has_no_captures_between_its_braces_is_refused() {
        for text in ["", "{", "}", "{}", "a{b", "a}b", "{a b}", "{a}}"] {
            assert!(CaptureText::parse(text).is_err(), "{text}");
        }
    }
}
