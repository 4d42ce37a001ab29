//! How instances are named: by what a person wrote, and by what a server answered.
//!
//! Guarantees: both are safe as one path segment and in a log line (letters, digits, `-`, `_` and
//! `.`, 1-255 of them). An [`InstanceRef`] may be a name, an id or an id prefix; an [`InstanceId`]
//! came from a server's answer, and is the key of whatever must never be confused between two
//! instances.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use smol_str::SmolStr;

/// The full id that a server gave an instance. It is cheap to clone.
///
/// ```
/// let id: hypeman::InstanceId = "tz4a98xxat96iws9zmbrgj3a".parse()?;
/// # Ok::<(), hypeman::InstanceIdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

/// An instance's name, its id, or a prefix of its id that no other id has. It is cheap to clone.
///
/// ```
/// let web: hypeman::InstanceRef = "web".parse()?;
/// assert!("../ingresses".parse::<hypeman::InstanceRef>().is_err());
/// # Ok::<(), hypeman::InstanceIdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceRef(SmolStr);

/// A volume's, snapshot's or ingress' name or id, which follows the same rules as an instance's.
pub type ResourceRef = InstanceRef;

/// The reason why a text cannot name an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InstanceIdError {
    /// The text is empty: it would name the collection of all instances.
    #[error("an instance name cannot be empty")]
    Empty,
    /// The text has over 255 characters.
    #[error("an instance name has at most 255 characters")]
    TooLong,
    /// The text has a character that is not a letter, digit, `-`, `_` or `.`, or is `.` or `..`.
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
    // Today's names and ids are narrower; the client accepts what a later server may use.
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

    /// The text as it goes into a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same instance, as something to look up.
    pub fn to_ref(&self) -> InstanceRef {
        InstanceRef(Arc::clone(&self.0).into())
    }
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Maps whose keys are ids can be asked by text.
impl Borrow<str> for InstanceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<InstanceId> for InstanceRef {
    fn from(id: InstanceId) -> Self {
        Self(id.0.into())
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
    /// Checks a name, id or id prefix.
    pub fn parse(text: &str) -> Result<Self, InstanceIdError> {
        check(text).map(|()| Self(text.into()))
    }

    /// The text as it goes into a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceRef {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
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
