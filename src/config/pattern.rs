//! Host patterns and the instance names that they yield.
//!
//! Guarantees: a [`HostPattern`] is a literal, a pattern with whole-label captures
//! (`{app}.example.com`; source: the contract's ingress rules, part A.9), one leading `*.` wildcard
//! that stands for one or more labels, or `*` alone for every host. An [`InstanceTemplate`] refers
//! only to captures that its pattern has.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

#[cfg(test)]
use super::shape::text_schema;
use crate::names::Hostname;
use hypeman::InstanceRef;

/// The capture that a request's port is chosen by.
pub const PORT: &str = "port";

/// One label of a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PatternLabel {
    /// Matches itself.
    Literal(String),
    /// Matches any one label and remembers it under this name.
    Capture(String),
    /// `{port}-{name}` or `{name}-{port}`: a number and a name with a dash between them, the first
    /// dash or the last.
    WithPort {
        /// What is not the number is remembered under this name.
        name: String,
        /// Whether the number comes first.
        is_first: bool,
    },
}

/// Which hosts a route answers for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One host.
    Exact(Hostname),
    /// As many labels as the pattern has, left to right.
    Labels(Vec<PatternLabel>),
    /// `*.suffix`: one or more labels, then this suffix.
    Wildcard(Hostname),
    /// `*`: every host that nothing else takes.
    Any,
}

/// The instance that a route names, perhaps through its host pattern's captures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceTemplate {
    /// Always this one.
    Fixed(InstanceRef),
    /// Whatever this capture matched.
    Capture(Arc<str>),
}

/// Why a host pattern or instance template is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a host name where one should be.
    #[error("{0}")]
    Hostname(#[from] crate::names::HostnameError),
    /// `api-{x}.example.com`.
    #[error(
        "a capture must be a whole label, like `{{name}}.example.com`, or `{{port}}-{{name}}`; `{0}` is mixed"
    )]
    MixedLabel(String),
    /// `{a}.{a}.example.com`.
    #[error("the capture `{{{0}}}` appears twice")]
    DuplicateCapture(String),
    /// `{1x}`.
    #[error("`{0}` is not a capture name: use a letter or `_`, then letters, digits or `_`")]
    CaptureName(String),
    /// `{x}` alone.
    #[error("a pattern needs at least two labels")]
    OneLabel,
    /// `a.*.example.com`.
    #[error("`*` may stand only as the first label, like `*.example.com`, or alone")]
    Wildcard,
    /// The instance names a capture that the host has not.
    #[error(
        "`{{{0}}}` is not a capture of this route's host; write it there, like \"{{{0}}}.example.com\""
    )]
    UnknownCapture(String),
    /// The instance's text is no name.
    #[error("{0}")]
    Instance(#[from] hypeman::InstanceIdError),
}

/// The inside of `{inside}`, if the label is a capture.
fn capture_name(label: &str) -> Result<Option<&str>, PatternError> {
    if !label.contains(['{', '}']) {
        return Ok(None);
    }
    let name = label
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .filter(|name| !name.contains(['{', '}']))
        .ok_or_else(|| PatternError::MixedLabel(label.to_owned()))?;
    let mut bytes = name.bytes();
    let fine = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fine {
        Ok(Some(name))
    } else {
        Err(PatternError::CaptureName(name.to_owned()))
    }
}

/// The name beside the port, and whether the port comes first, if the label is such a pair.
fn port_pair(label: &str) -> Result<Option<(&str, bool)>, PatternError> {
    let first = label.strip_prefix("{port}-").map(|rest| (rest, true));
    let pair = first.or_else(|| label.strip_suffix("-{port}").map(|rest| (rest, false)));
    let Some((rest, is_first)) = pair else {
        return Ok(None);
    };
    match capture_name(rest)? {
        Some(name) => Ok(Some((name, is_first))),
        None => Err(PatternError::MixedLabel(label.to_owned())),
    }
}

#[cfg(test)]
text_schema!(HostPattern, "HostPattern", "{instance}.example.com");
#[cfg(test)]
text_schema!(InstanceTemplate, "InstanceTemplate", "{instance}");

/// The number and the name of a label that is made of both.
pub fn split_port(label: &str, is_first: bool) -> Option<(&str, &str)> {
    let (port, name) = match is_first {
        true => label.split_once('-')?,
        false => label.rsplit_once('-').map(|(name, port)| (port, name))?,
    };
    let is_number = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    (is_number && !name.is_empty()).then_some((port, name))
}

/// What a label of a valid pattern captures, as it is written; the later, the less is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captured<'a> {
    /// Nothing: it is what it is.
    Nothing,
    /// A port, and what is under this name.
    Port {
        /// The name, in braces.
        name: &'a str,
        /// Whether the port comes first.
        is_first: bool,
    },
    /// All of it.
    Label(&'a str),
}

// === impl Captured ===

impl<'a> Captured<'a> {
    /// Of a label of a valid pattern.
    pub fn of(label: &'a str) -> Self {
        if !label.starts_with('{') {
            return Self::Nothing;
        }
        let first = label.strip_prefix("{port}-").map(|name| (name, true));
        let pair = first.or_else(|| label.strip_suffix("-{port}").map(|name| (name, false)));
        match pair {
            Some((name, is_first)) => Self::Port { name, is_first },
            None => Self::Label(label),
        }
    }

    /// What has been captured of a host's label under a name.
    pub fn capture<'h>(self, part: &'h str, capture: &str) -> Option<&'h str> {
        let is_it = |written: &str| {
            let name = written.strip_prefix('{').and_then(|n| n.strip_suffix('}'));
            name == Some(capture)
        };
        match self {
            Self::Nothing => None,
            Self::Label(name) => is_it(name).then_some(part),
            Self::Port { name, is_first } => {
                let (port, rest) = split_port(part, is_first)?;
                match capture {
                    PORT => Some(port),
                    _ => is_it(name).then_some(rest),
                }
            }
        }
    }
}

// === impl PatternLabel ===

impl PatternLabel {
    /// The names of what it captures.
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Literal(_) => Vec::new(),
            Self::Capture(name) => vec![name],
            Self::WithPort { name, .. } => vec![name, PORT],
        }
    }
}

// === impl HostPattern ===

impl HostPattern {
    /// Reads a literal, a capture pattern or a `*.` wildcard.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if let Some(suffix) = text.strip_prefix("*.") {
            if suffix.contains(['*', '{']) {
                return Err(PatternError::Wildcard);
            }
            return Ok(Self::Wildcard(Hostname::parse(suffix)?));
        }
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains('*') {
            return Err(PatternError::Wildcard);
        }
        if !text.contains(['{', '}']) {
            return Ok(Self::Exact(Hostname::parse(text)?));
        }
        let mut labels = Vec::new();
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            if let Some((name, is_first)) = port_pair(label)? {
                let name = name.to_owned();
                labels.push(PatternLabel::WithPort { name, is_first });
                continue;
            }
            labels.push(match capture_name(label)? {
                Some(name) => PatternLabel::Capture(name.to_owned()),
                None => PatternLabel::Literal(Hostname::parse(label)?.as_str().to_owned()),
            });
        }
        if labels.len() < 2 {
            return Err(PatternError::OneLabel);
        }
        let names: Vec<&str> = labels.iter().flat_map(PatternLabel::names).collect();
        for (index, name) in names.iter().enumerate() {
            if names.iter().take(index).any(|before| before == name) {
                return Err(PatternError::DuplicateCapture((*name).to_owned()));
            }
        }
        Ok(Self::Labels(labels))
    }

    /// Whether the pattern answers for a host.
    pub fn fits(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(own) => own.as_str() == host,
            Self::Wildcard(suffix) => host
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Self::Labels(labels) => {
                let mut parts = host.split('.');
                labels.iter().all(|label| match (label, parts.next()) {
                    (PatternLabel::Literal(text), Some(part)) => text == part,
                    (PatternLabel::Capture(_), Some(_)) => true,
                    (PatternLabel::WithPort { is_first, .. }, Some(part)) => {
                        split_port(part, *is_first).is_some()
                    }
                    (_, None) => false,
                }) && parts.next().is_none()
            }
        }
    }

    /// Whether the pattern has this capture.
    pub fn captures(&self, name: &str) -> bool {
        match self {
            Self::Labels(labels) => labels.iter().any(|label| label.names().contains(&name)),
            Self::Exact(_) | Self::Wildcard(_) | Self::Any => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(host) => write!(f, "{host}"),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Labels(labels) => {
                for (index, label) in labels.iter().enumerate() {
                    if index > 0 {
                        f.write_str(".")?;
                    }
                    match label {
                        PatternLabel::Literal(text) => f.write_str(text)?,
                        PatternLabel::Capture(name) => write!(f, "{{{name}}}")?,
                        PatternLabel::WithPort {
                            name,
                            is_first: true,
                        } => {
                            write!(f, "{{port}}-{{{name}}}")?;
                        }
                        PatternLabel::WithPort {
                            name,
                            is_first: false,
                        } => {
                            write!(f, "{{{name}}}-{{port}}")?;
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl InstanceTemplate ===

impl InstanceTemplate {
    /// Reads a fixed name or one `{capture}` of `host`.
    pub fn parse(text: &str, host: &HostPattern) -> Result<Self, PatternError> {
        match capture_name(text)? {
            Some(name) if host.captures(name) => Ok(Self::Capture(name.into())),
            Some(name) => Err(PatternError::UnknownCapture(name.to_owned())),
            None => Ok(Self::Fixed(InstanceRef::parse(text)?)),
        }
    }
}

impl fmt::Display for InstanceTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(instance) => f.write_str(instance.as_str()),
            Self::Capture(name) => write!(f, "{{{name}}}"),
        }
    }
}

impl Serialize for InstanceTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_the_contract_refuses_are_refused() {
        for text in [
            "api-{x}.example.com",
            "{a}-{b}.example.com",
            "{port}-x.example.com",
            "{port}-{port}.example.com",
            "{port}-{a}.{port}.example.com",
            "x{port}-{a}.example.com",
            "{a}.{a}.example.com",
            "{x}",
            "**",
            "a.*.b",
            "*.{x}.b",
            "{1}.b",
            "{}.b",
            "",
            "{x.b",
            "a..{x}",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn patterns_print_as_they_were_written() {
        for text in [
            "api.example.com",
            "{app}.{env}.example.com",
            "{port}-{app}.example.com",
            "{app}-{port}.{env}.example.com",
            "*.example.com",
            "*",
        ] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_dot_of_a_whole_domain_name_is_no_label() {
        for text in ["api.example.com.", "{app}.example.com.", "*.example.com."] {
            let without = HostPattern::parse(text.trim_end_matches('.'));
            assert_eq!(HostPattern::parse(text), without, "{text}");
        }
    }

    #[test]
    fn a_port_is_before_the_first_dash_or_behind_the_last() {
        for (label, is_first, expected) in [
            ("3000-my-app", true, Some(("3000", "my-app"))),
            ("my-app-3000", false, Some(("3000", "my-app"))),
            ("3000-my-app-4000", true, Some(("3000", "my-app-4000"))),
            ("3000-my-app-4000", false, Some(("4000", "3000-my-app"))),
            ("my-app", true, None),
            ("my-app", false, None),
            ("3000", true, None),
            ("3000-", true, None),
            ("-3000", false, None),
            ("123456-app", true, None),
        ] {
            assert_eq!(split_port(label, is_first), expected, "{label}");
        }
    }

    #[test]
    fn an_instance_may_name_only_a_capture_of_its_host() {
        let host = HostPattern::parse("{app}.example.com").unwrap();
        assert_eq!(
            InstanceTemplate::parse("{app}", &host),
            Ok(InstanceTemplate::Capture("app".into()))
        );
        assert_eq!(
            InstanceTemplate::parse("{other}", &host),
            Err(PatternError::UnknownCapture("other".to_owned()))
        );
    }
}
