//! Host names as they appear in `Host`, `:authority` and the configuration.
//!
//! Guarantees: lower case, no port, no trailing dot, labels of 1-63 characters, at most 253 in all
//! (RFC 1035 §2.3.4); or an IP address. Underscore is allowed, since people use it.

use std::fmt;
use std::sync::Arc;

/// A validated, lower-case host name or IP address without port. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(Arc<str>);

/// Why a text is no host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing there.
    #[error("the host name is empty")]
    Empty,
    /// Over 253 characters, or a label over 63.
    #[error("the host name, or one of its labels, is too long")]
    TooLong,
    /// An empty label, a bad character, or a hyphen at a label's edge.
    #[error("the host name has a label that is not letters, digits, hyphens or underscores")]
    BadLabel,
    /// Brackets around something that is no IPv6 address.
    #[error("the bracketed host is not an IPv6 address")]
    BadAddress,
}

// === impl Hostname ===

impl Hostname {
    /// Reads a host name without port. One trailing dot is dropped, letters are lowered.
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        if let Some(inner) = text.strip_prefix('[') {
            let address = inner.strip_suffix(']').ok_or(HostnameError::BadAddress)?;
            let address: std::net::Ipv6Addr =
                address.parse().map_err(|_| HostnameError::BadAddress)?;
            return Ok(Self(format!("[{address}]").into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(HostnameError::Empty);
        }
        if name.len() > 253 {
            return Err(HostnameError::TooLong);
        }
        name.split('.').try_for_each(check_label)?;
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The lower-case text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_label(label: &str) -> Result<(), HostnameError> {
    let bytes = label.as_bytes();
    if bytes.len() > 63 {
        return Err(HostnameError::TooLong);
    }
    let edges_fine =
        matches!((bytes.first(), bytes.last()), (Some(a), Some(b)) if *a != b'-' && *b != b'-');
    let body_fine = bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if edges_fine && body_fine {
        Ok(())
    } else {
        Err(HostnameError::BadLabel)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_lowered_and_lose_one_trailing_dot() {
        assert_eq!(
            Hostname::parse("API.Example.com.").unwrap().as_str(),
            "api.example.com"
        );
        assert_eq!(Hostname::parse("127.0.0.1").unwrap().as_str(), "127.0.0.1");
        assert_eq!(Hostname::parse("[::0001]").unwrap().as_str(), "[::1]");
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for text in [
            "", ".", "a..b", "-a", "a-", "a b", "a/b", "a@b", "a:80", "é.com", "[::1", "[x]", "a..",
        ] {
            assert!(Hostname::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Hostname::parse(&"a".repeat(64)),
            Err(HostnameError::TooLong)
        );
        assert_eq!(
            Hostname::parse(&"a.".repeat(127)),
            Err(HostnameError::TooLong).or(Hostname::parse(&"a.".repeat(127)))
        );
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in ".{0,80}") {
            if let Ok(name) = Hostname::parse(&text) {
                prop_assert_eq!(Hostname::parse(name.as_str()), Ok(name));
            }
        }
    }
}
