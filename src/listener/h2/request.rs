//! Which heads are requests (RFC 9113 §8.2, §8.3).
//!
//! Guarantees: a head that the library takes although it is malformed is refused here. Those whose
//! client is better served by a response pass: user information in `:authority` and a Host that
//! differs from it are answered with 400 by whoever finds the request's host.

use ::http::header::CONTENT_LENGTH;
use ::http::request::Parts;
use ::http::uri::PathAndQuery;
use ::http::{HeaderValue, Method};
use h2::ext::Protocol;

use crate::client::RefusalReason;

/// Why a head is no request that can be answered; a request may have `max_fields` fields.
pub(super) fn refusal(head: &Parts, max_fields: usize) -> Option<RefusalReason> {
    if let Some(what) = malformed(head) {
        tracing::debug!(what, "a malformed request");
        return Some(RefusalReason::Malformed);
    }
    (head.headers.len() > max_fields).then_some(RefusalReason::LargeHead)
}

/// What is wrong with a head.
fn malformed(head: &Parts) -> Option<&'static str> {
    let target = head.uri.path_and_query().map(PathAndQuery::as_str);
    let is_tunnel = head.method == Method::CONNECT && head.extensions.get::<Protocol>().is_none();
    if head.method == Method::CONNECT && head.uri.authority().is_none() {
        return Some("CONNECT without an authority");
    }
    // Of `CONNECT host:port` the library has made sure that there is none.
    if !is_tunnel && !target.is_some_and(|target| is_path(&head.method, target)) {
        return Some("a path that is none");
    }
    for (name, value) in &head.headers {
        if has_space_around(value) {
            return Some("a value with white space around it");
        }
        if *name == CONTENT_LENGTH && value.is_empty() {
            return Some("a length that is none");
        }
    }
    None
}

/// Origin form, or `*` for OPTIONS alone (RFC 9113 §8.3.1).
fn is_path(method: &Method, target: &str) -> bool {
    target.starts_with('/') || target == "*" && *method == Method::OPTIONS
}

/// RFC 9113 §8.2.1.
fn has_space_around(value: &HeaderValue) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())
}

#[cfg(test)]
mod tests {
    use ::http::Request;

    use super::*;

    fn refused(method: &str, target: &str, fields: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        malformed(&request.body(()).unwrap().into_parts().0).is_some()
    }

    #[test]
    fn paths_are_paths_and_values_have_no_space_around_them() {
        assert!(!refused("GET", "http://a.b/c?d", &[("x", "a b")]));
        assert!(!refused("OPTIONS", "*", &[]));
        assert!(refused("GET", "*", &[]));
        assert!(!refused("CONNECT", "a.b:80", &[]));
        for value in [" a", "a ", "\ta", "a\t", " "] {
            assert!(refused("GET", "/", &[("x", value)]), "{value:?}");
        }
        assert!(refused("POST", "/", &[("content-length", "")]));
        assert!(!refused("GET", "/", &[("x", "")]));
    }
}
