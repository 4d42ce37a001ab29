//! How we name instances: what a person wrote, and what a server answered.
//!
//! Guarantees: both are safe as one path segment after percent-encoding and safe in a log line
//! (printable ASCII, 1-255 characters). An [`InstanceRef`] may be a name, an id or an id prefix; an
//! [`InstanceId`] came from a server's answer, and everything that must never be confused between
//! tenants is keyed by it.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// The full id that a server gave an instance. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

/// What a route names: an instance's name, id or unambiguous id prefix. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceRef(Arc<str>);

/// Why a text cannot name an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InstanceIdError {
    /// An empty segment would reach the collection's route.
    #[error("an instance name cannot be empty")]
    Empty,
    /// Over 255 characters.
    #[error("an instance name has at most 255 characters")]
    TooLong,
    /// A control character, space, slash or non-ASCII character.
    #[error("an instance name has only letters, digits, `-`, `_` and `.`, and is not `.` or `..`")]
    BadCharacter,
}

fn check(text: &str) -> Result<(), InstanceIdError> {
    if text.is_empty() {
        return Err(InstanceIdError::Empty);
    }
    if text.len() > 255 {
        return Err(InstanceIdError::TooLong);
    }
    // The contract's names and ids are narrower; the client accepts what a later server may use.
    // Dot segments would leave the collection, as any URL library resolves them away.
    let fine = text != "."
        && text != ".."
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if fine {
        Ok(())
    } else {
        Err(InstanceIdError::BadCharacter)
    }
}

// === impl InstanceId ===

impl InstanceId {
    /// Checks an id from a server's answer.
    pub fn parse(text: &str) -> Result<Self, InstanceIdError> {
        check(text).map(|()| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same instance, as something to look up.
    pub fn to_ref(&self) -> InstanceRef {
        InstanceRef(self.0.clone())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

// === impl InstanceRef ===

impl InstanceRef {
    /// Checks a name, id or prefix from the configuration or a host name's capture.
    pub fn parse(text: &str) -> Result<Self, InstanceIdError> {
        check(text).map(|()| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for InstanceRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Debug for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_would_leave_its_path_segment_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a\n",
            "a?b",
            "a%2fb",
            "é",
            &"a".repeat(256),
        ] {
            assert!(InstanceId::parse(text).is_err(), "{text:?}");
            assert!(InstanceRef::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            InstanceId::parse("tz4a98xxat96iws9zmbrgj3a")
                .unwrap()
                .as_str()
                .len(),
            24
        );
    }
}
