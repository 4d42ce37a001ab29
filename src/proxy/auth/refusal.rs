//! Why a request is not let in.
//!
//! Guarantees: it says nothing about what is behind the gateway.

use http::{HeaderValue, StatusCode};

/// Why one way does not let a request in; the later, the more it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::proxy) enum Refusal {
    /// The request has not what it asks for.
    Missing,
    /// It has, and that does not count.
    Invalid,
    /// It counts, and for something else.
    Other,
    /// Nobody can tell.
    Unavailable,
}

/// What a 401 asks for (RFC 9110 §11.6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge(pub(in crate::proxy) Vec<HeaderValue>);

/// Where another server sends a request's client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthRedirect {
    /// With which status.
    pub status: StatusCode,
    /// To where.
    pub location: HeaderValue,
}

/// The challenge of routes that want a token (RFC 6750 §3); `is_invalid` says that the request has
/// one that does not count.
pub(in crate::proxy) fn bearer_challenge(is_invalid: bool) -> HeaderValue {
    HeaderValue::from_static(match is_invalid {
        true => "Bearer error=\"invalid_token\"",
        false => "Bearer",
    })
}

// === impl Challenge ===

impl Challenge {
    /// The values of `WWW-Authenticate`.
    pub fn values(&self) -> &[HeaderValue] {
        &self.0
    }
}
