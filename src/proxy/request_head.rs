//! The part of a request's head that decides whether it may wake.
//!
//! Guarantees: it borrows from the request; nothing is copied unless a rule reads it.

use std::net::IpAddr;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method};

use super::path_verdict::PathVerdict;

/// A request's head, as far as it decides.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// What the route's rules say about the target's path.
    pub path: &'a PathVerdict,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The client's address.
    pub client: IpAddr,
}

// === impl RequestHead ===

impl RequestHead<'_> {
    /// Whether it only reads.
    pub(super) fn is_read(&self) -> bool {
        matches!(*self.method, Method::GET | Method::HEAD)
    }

    /// The user agent in lower case; empty where there is none.
    pub(super) fn user_agent(&self) -> String {
        let value = self.headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        String::from_utf8_lossy(value.unwrap_or_default()).to_lowercase()
    }
}
