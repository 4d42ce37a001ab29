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

/// One label of a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PatternLabel {
    /// Matches itself.
    Literal(String),
    /// Matches any one label and remembers it under this name.
    Capture(String),
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
    #[error("a capture must be a whole label, like `{{name}}.example.com`; `{0}` is mixed")]
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
    #[error("`{{{0}}}` is not a capture of this route's host")]
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

#[cfg(test)]
text_schema!(HostPattern, "HostPattern", "{instance}.example.com");
#[cfg(test)]
text_schema!(InstanceTemplate, "InstanceTemplate", "{instance}");

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
        for label in text.split('.') {
            labels.push(match capture_name(label)? {
                Some(name) => PatternLabel::Capture(name.to_owned()),
                None => PatternLabel::Literal(Hostname::parse(label)?.as_str().to_owned()),
            });
        }
        if labels.len() < 2 {
            return Err(PatternError::OneLabel);
        }
        for (index, label) in labels.iter().enumerate() {
            if let PatternLabel::Capture(name) = label
                && labels.iter().take(index).any(|before| before == label)
            {
                return Err(PatternError::DuplicateCapture(name.clone()));
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
                    (_, None) => false,
                }) && parts.next().is_none()
            }
        }
    }

    /// Whether the pattern has this capture.
    pub fn captures(&self, name: &str) -> bool {
        match self {
            Self::Labels(labels) => labels
                .iter()
                .any(|l| matches!(l, PatternLabel::Capture(n) if n == name)),
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
            "*.example.com",
            "*",
        ] {
            assert_eq!(HostPattern::parse(text).unwrap().to_string(), text);
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
